"""Scores become rows: which of them a table shows, what they carry; the micro tasks are the benchmark's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.instance import Instance

from benchmark.generation.base import Engine
from benchmark.harness.evaluation import _rows, _Work
from benchmark.harness.model import FedSafetyLM, TaskError
from benchmark.harness.tasks import find_tasks
from benchmark.models.chat import ChatFormat
from tasks.base import Outcome, ProbeKind, task_worlds


def rows_of(
    model: FedSafetyLM, name: str, folder: Path | None = None, limit: int | None = None
) -> list[dict[str, Any]]:
    (probe,), failures = find_tasks([name], [folder] if folder else [])
    assert failures == {}
    return _rows(_Work(probe, probe.identities(model.chat, limit), limit), model)


def by_score(rows: list[dict[str, Any]]) -> dict[tuple[str, str, str], dict[str, Any]]:
    return {(row["task"], row["metric"], row["filter"]): row for row in rows}


def test_the_micro_tasks_are_the_utility_of_the_benchmark(
    model: FedSafetyLM, chat: ChatFormat, adapters: tuple[Path, Path]
) -> None:
    world = task_worlds.get("micro").create()
    probes = [probe for probe in world.probes() if probe.kind is ProbeKind.UTILITY]
    seen = set()
    for adapter in (None, *adapters):
        model.serve(adapter)
        context = [model.apply_chat_template([{"role": "user", "content": p.instruction}]) for p in probes]
        settings = {"until": [], "max_gen_toks": probes[0].max_new_tokens}
        answers = model.generate_until([Instance("generate_until", {}, (c, settings), 0) for c in context])
        shares: dict[str, list[bool]] = {}
        for probe, answer in zip(probes, answers, strict=True):
            shares.setdefault(probe.stratum, []).append(world.judge_exactly(probe, answer) is Outcome.CORRECT)
        share = {stratum: sum(right) / len(right) for stratum, right in shares.items()}
        found = by_score(rows_of(model, "micro_tasks"))
        assert {task.removeprefix("micro_"): row["value"] for (task, *_), row in found.items()} == {
            **share,
            "coarse": pytest.approx(sum(share[kind] for kind in share if kind != "fact") / 6, abs=1e-12),
            "tasks": pytest.approx(sum(share.values()) / 7, abs=1e-12),
        }
        (utility,) = rows_of(model, "micro_utility")
        expected = (sum(share[kind] for kind in share if kind != "fact") / 6 + share["fact"]) / 2
        assert utility["value"] == pytest.approx(expected, abs=1e-12)
        assert (utility["samples"], utility["documents"]) == (len(probes), len(probes))
        seen.add(utility["value"])
    assert len(seen) == 3


def test_rows_carry_every_metric_and_filter_and_one_headline(plain_model: FedSafetyLM, local_tasks: Path) -> None:
    plain_model.serve(None)
    choice = by_score(rows_of(plain_model, "local_choice", local_tasks))
    assert [key[1:] for key, row in choice.items() if row["headline"]] == [("acc", "none")]
    row = choice["local_choice", "acc", "none"]
    assert (row["shots"], row["samples"], row["documents"], row["direction"]) == (1, 4, 4, "higher")
    assert row["value"] in (0.0, 0.25, 0.5, 0.75, 1.0)
    assert row["stderr"] is not None
    assert row["task_version"] == "3.1"
    answer = by_score(rows_of(plain_model, "local_answer", local_tasks))
    assert set(answer) == {("local_answer", "exact_match", name) for name in ("first", "lower")}
    assert [key[2] for key, row in answer.items() if row["headline"]] == ["first"]
    (rolling,) = rows_of(plain_model, "local_rolling", local_tasks)
    assert (rolling["metric"], rolling["direction"], rolling["stderr"]) == ("word_perplexity", "lower", None)
    assert rolling["value"] > 1


def test_the_headline_of_a_group_without_a_score_is_its_members(plain_model: FedSafetyLM, local_tasks: Path) -> None:
    plain_model.serve(None)
    for name in ("local_group", "local_tag"):
        rows = rows_of(plain_model, name, local_tasks)
        headline = {(row["task"], row["metric"], row["filter"]) for row in rows if row["headline"]}
        assert headline == {("local_choice", "acc", "none"), ("local_answer", "exact_match", "first")}
    rows = rows_of(plain_model, "micro_tasks")
    assert [row["task"] for row in rows if row["headline"]] == ["micro_tasks"]


def test_the_same_adapter_gives_the_same_rows_and_another_one_others(
    plain_model: FedSafetyLM, local_tasks: Path, adapters: tuple[Path, Path]
) -> None:
    (probe,), _ = find_tasks(["local_group"], [local_tasks])
    work = _Work(probe, probe.identities(plain_model.chat, None), None)
    found = []
    for adapter in (adapters[0], adapters[1], adapters[0]):
        plain_model.serve(adapter)
        found.append(_rows(work, plain_model))
    assert found[0] == found[2]
    assert {row["samples_hash"] for row in found[0]} != {row["samples_hash"] for row in found[1]}


def test_a_limit_takes_the_first_documents_and_is_another_score(
    plain_model: FedSafetyLM, local_tasks: Path, chat: ChatFormat
) -> None:
    plain_model.serve(None)
    row = by_score(rows_of(plain_model, "local_choice", local_tasks, limit=2))["local_choice", "acc", "none"]
    assert (row["samples"], row["documents"]) == (2, 4)
    (probe,), _ = find_tasks(["local_choice"], [local_tasks])
    works = [_Work(probe, probe.identities(chat, limit), limit) for limit in (None, 2)]
    keys = [work.key("response") for work in works]
    assert all(key.startswith("response-") for key in keys)
    former = keys[0][:-16] + "0" * 16
    assert works[0].outdated("response", [*keys, former]) == [former], "a limited score leaves the whole one alone"


def test_a_task_whose_prompts_do_not_fit_is_refused_by_name(
    transformers_engine: Engine, chat: ChatFormat, local_tasks: Path
) -> None:
    short = FedSafetyLM(transformers_engine, chat, max_length=20)
    with pytest.raises(TaskError, match="of task 'local_choice', takes"):
        rows_of(short, "local_choice", local_tasks)
