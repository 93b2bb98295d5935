"""Likelihoods of continuations: which, of which tokens, by which model, and how a run stores and resumes them."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmark.errors import FedSafetyError, UsageError
from benchmark.execution import answering
from benchmark.execution.answering import answer
from benchmark.execution.bench import Bench
from benchmark.execution.catalog import write_catalog
from benchmark.execution.cell_keys import probe_set_digest
from benchmark.execution.job import run_job
from benchmark.execution.judging import Judging, judge_responses, responses_to
from benchmark.execution.likelihoods import (
    Continuation,
    DivergedError,
    continuations,
    likelihood_count,
    likelihood_rows,
)
from benchmark.execution.outcome import State, outcome_of
from benchmark.execution.plan import Plan
from benchmark.execution.prompts import check_prompts
from benchmark.execution.run import Run
from benchmark.execution.stages import judge, pending_jobs, settle
from benchmark.execution.stored import check_stored
from benchmark.generation.base import Engine
from benchmark.generation.select import EngineChoice
from benchmark.models.chat import ChatFormat
from benchmark.progress import Reporter
from benchmark.records.publish import publish
from benchmark.records.store import Store
from benchmark.records.withheld import is_withheld, without_texts
from benchmark.screen import Screen
from benchmark.suites.suite import Suite
from defenses.base import Prompt
from leaderboard.rows.rows import load_rows
from leaderboard.scores.cells import scores
from tasks.base import Probe, ProbeKind
from tasks.micro import MicroWorld

from .plans import cell, plan_of

OPENINGS = ("w20 w21 w22", "w23")
HARMFUL = Probe("asked/0", ProbeKind.HARMFUL, "asked", True, "w5 w10", "", 6, target="w24 w25", publish="hash")
UNTARGETED = Probe("asked/1", ProbeKind.HARMFUL, "asked", True, "w5 w11", "", 6, publish="hash")
REFERENCE = Probe("held/0", ProbeKind.PERPLEXITY, "held", True, "w1 w12", "w13 w14 w15", 6, publish="answers")
LONG = Probe(
    "held/1", ProbeKind.PERPLEXITY, "held", True, "w1 w13", "w13 w14 w15 w16 w17 w18 w19", 4, publish="answers"
)
SAFE = Probe("safe/0", ProbeKind.OVER_REFUSAL, "safe", True, "w6 w10", "", 6, publish="answers")


class World(MicroWorld):
    """The micro world with probes and openings of a suite that measures likelihoods."""

    asked: Sequence[Probe] = (HARMFUL, UNTARGETED, REFERENCE, LONG, SAFE)

    def probes(self) -> tuple[Probe, ...]:
        return tuple(self.asked)

    @property
    def refusal_openings(self) -> tuple[str, ...]:
        return OPENINGS


def test_which_continuations_a_probe_has() -> None:
    refusals = [Continuation("refusal", 0, OPENINGS[0], ends=False), Continuation("refusal", 1, "w23", ends=False)]
    assert continuations(HARMFUL, OPENINGS) == [*refusals, Continuation("target", 0, "w24 w25", ends=False)]
    assert continuations(REFERENCE, ()) == [Continuation("reference", 0, "w13 w14 w15", ends=True)]
    assert continuations(HARMFUL, ()) == continuations(UNTARGETED, OPENINGS) == continuations(SAFE, OPENINGS) == []
    assert likelihood_count(World()) == 5
    assert likelihood_count(MicroWorld()) == 0


def test_targets_and_measured_references_are_part_of_a_probe_set_and_no_others() -> None:
    def digest(probe: Probe, **changes: Any) -> str:
        return probe_set_digest([replace(probe, **changes)])

    assert digest(UNTARGETED) == digest(UNTARGETED, reference="w1") != digest(UNTARGETED, target="w1")
    assert digest(HARMFUL) != digest(HARMFUL, target="w26")
    assert digest(REFERENCE) != digest(REFERENCE, reference="w13")


@pytest.fixture
def chat(checkpoints: Path) -> ChatFormat:
    return ChatFormat(checkpoints / "chat")


class Recorded(Engine):
    """An engine of made-up scores: the token at place i of any sequence has the log-probability -i."""

    name = "recorded"
    max_length = 64

    def __init__(self, worst: float = -1.0) -> None:
        self.seen: list[tuple[int, ...]] = []
        self._worst = worst

    def generate(self, requests: Any) -> Any:
        raise AssertionError("nothing is generated")

    def scores(self, scored: Any) -> Any:
        from benchmark.generation.base import TokenScore

        self.seen = [tuple(ids) for ids, _ in scored]
        return [[TokenScore(self._worst * (i + 1), False) for i in range(len(ids) - 1)] for ids in self.seen]

    def close(self) -> None:
        pass


def rows_by_hand(engine: Engine, chat: ChatFormat, answers: dict[str, str] | None = None) -> list[dict[str, Any]]:
    prompts = [Prompt(probe.instruction, (answers or {}).get(probe.id)) for probe in World.asked]
    return likelihood_rows("key", World(), prompts, chat, engine, Path("adapter"))


def test_tokens_and_nats_by_hand(chat: ChatFormat) -> None:
    # The format is "<s> <u> instruction <a>": a prompt of two words has 5 tokens, at places 0 to 4.
    engine = Recorded()
    rows = rows_by_hand(engine, chat)
    assert [(row["probe_id"], row["role"], row["index"], row["tokens"], row["nats"]) for row in rows] == [
        ("asked/0", "refusal", 0, 3, -(5 + 6 + 7)),
        ("asked/0", "refusal", 1, 1, -5),
        ("asked/0", "target", 0, 2, -(5 + 6)),
        ("held/0", "reference", 0, 4, -(5 + 6 + 7 + 8)),  # three words and the end of the answer
        ("held/1", "reference", 0, 4, -(5 + 6 + 7 + 8)),  # cut at max_new_tokens
    ]
    ends = [ids[-1] == chat.eos_id for ids in engine.seen]
    assert ends == [False, False, False, True, False]
    assert {row["response_key"] for row in rows} == {"key"}


def test_after_a_prompt_that_the_defense_answers_nothing_is_measured(chat: ChatFormat) -> None:
    rows = rows_by_hand(Recorded(), chat, {"asked/0": "no"})
    assert [(row["tokens"], row["nats"]) for row in rows[:3]] == [(0, 0.0)] * 3
    assert [row["tokens"] for row in rows[3:]] == [4, 4]


@pytest.mark.parametrize("worst", [-math.inf, math.nan])
def test_a_likelihood_that_is_no_number_is_an_error(chat: ChatFormat, worst: float) -> None:
    with pytest.raises(DivergedError, match="likelihood of refusal 0 after 'asked/0'"):
        rows_by_hand(Recorded(worst), chat)


def test_certainty_is_the_most(chat: ChatFormat) -> None:
    assert {row["nats"] for row in rows_by_hand(Recorded(1e-9), chat)} == {0.0}


@pytest.fixture
def plan(micro: Suite) -> Plan:
    suite = micro.model_copy(update={"judges": ("rule",), "primary_judge": "rule"})
    suite = suite.model_copy(
        update={"training": suite.training.model_copy(update={"rounds": 1, "local_steps": 2, "batch_size": 2})}
    )
    return plan_of(suite, scenarios=["clean"], pipelines=["fedavg", "refuse_all"], seeds=[11], world=World())


@pytest.fixture
def run(plan: Plan, tmp_path: Path) -> Run:
    store = Store(tmp_path / "runs")
    for job in plan.jobs:
        assert run_job(plan.suite, job, store.root, Bench()).failures == {}
    return Run(plan, store, EngineChoice("transformers", ""), Reporter(Screen(file=io.StringIO(), width=200)))


def test_a_run_stores_likelihoods_beside_its_answers(run: Run) -> None:
    plan, store = run.plan, run.store
    assert {c.likelihoods for c in plan.cells} == {5}
    assert answer(run) == {}
    trained, refusing = cell(plan, "clean", "fedavg"), cell(plan, "clean", "refuse_all")
    answers = store.read("responses", trained.response_key)["probe_id"].to_pylist()
    assert answers == ["asked/0", "asked/1", "safe/0"]  # what is measured alone is not answered
    rows = store.read("likelihoods", trained.response_key).to_pylist()
    assert [row["tokens"] for row in rows] == [3, 1, 2, 4, 4]
    assert all(row["nats"] < 0 for row in rows)
    assert {row["tokens"] for row in store.read("likelihoods", refusing.response_key).to_pylist()} == {0}
    assert {outcome.state for outcome in settle(run, {}).values()} == {State.DONE}
    check_stored(plan, store)


def test_likelihoods_are_those_of_the_served_model(run: Run, checkpoints: Path) -> None:
    """One continuation against PEFT's own model, token by token."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    answer(run)
    trained = cell(run.plan, "clean", "fedavg")
    row = run.store.read("likelihoods", trained.response_key).to_pylist()[2]
    base = AutoModelForCausalLM.from_pretrained(checkpoints / trained.scenario.start)
    model = PeftModel.from_pretrained(base, run.store.adapter_folder(trained.adapter_key)).eval()
    chat = ChatFormat(checkpoints / trained.scenario.start)
    prompt, target = chat.prompt_ids(HARMFUL.instruction), chat.encode(HARMFUL.target)
    with torch.no_grad():
        logprobs = model(torch.tensor([[*prompt, *target]])).logits[0].double().log_softmax(-1)
    expected = sum(float(logprobs[len(prompt) - 1 + i, token]) for i, token in enumerate(target))
    assert row["nats"] == pytest.approx(expected, abs=1e-4)


def test_only_what_is_missing_is_made_again(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, store = run.plan, run.store
    answer(run)
    settle(run, {})
    key = cell(plan, "clean", "fedavg").response_key
    kept = {table: store.read(table, key) for table in ("responses", "likelihoods")}
    written = store.written_at("responses", key)
    store.remove("likelihoods", key)
    assert outcome_of(cell(plan, "clean", "fedavg"), store).state is State.TRAINED
    assert pending_jobs(plan, store) == []
    assert answer(run) == {}
    assert store.read("likelihoods", key).equals(kept["likelihoods"])
    assert store.written_at("responses", key) == written
    store.remove("responses", key)
    monkeypatch.setattr(answering, "likelihood_rows", lambda *_: pytest.fail("measured again"))
    assert answer(run) == {}
    assert store.read("responses", key).equals(kept["responses"])


def test_a_missing_adapter_is_trained_again_for_missing_likelihoods(run: Run) -> None:
    answer(run)
    settle(run, {})
    trained = cell(run.plan, "clean", "fedavg")
    run.store.remove("likelihoods", trained.response_key)
    (run.store.adapter_folder(trained.adapter_key) / "run.json").unlink()
    assert [job.training_key for job in pending_jobs(run.plan, run.store)] == [trained.training_key]


def test_damaged_and_incomplete_likelihoods_are_found_before_anything_is_trained(run: Run) -> None:
    answer(run)
    store, key = run.store, cell(run.plan, "clean", "fedavg").response_key
    rows = store.read("likelihoods", key)
    path = store.root / "likelihoods" / f"{key}.parquet"
    store.write("likelihoods", key, rows.slice(1))
    with pytest.raises(FedSafetyError, match=f"{key}.parquet holds 4 rows and not 5"):
        check_stored(run.plan, store)
    store.write("likelihoods", key, [row | {"response_key": "other"} for row in rows.to_pylist()])
    with pytest.raises(FedSafetyError, match="response_key 'other' and not"):
        check_stored(run.plan, store)
    store.write("likelihoods", key, rows)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(FedSafetyError, match=f"{key}.parquet is damaged"):
        check_stored(run.plan, store)


def test_an_adapter_that_has_diverged_fails_its_cell_alone(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = cell(run.plan, "clean", "fedavg").response_key
    original = answering.likelihood_rows

    def diverged(key: str, *rest: Any) -> list[dict[str, Any]]:
        if key == trained:
            raise DivergedError("it has diverged")
        return original(key, *rest)

    monkeypatch.setattr(answering, "likelihood_rows", diverged)
    failures = answer(run)
    assert failures == {trained: "it has diverged"}
    states = {c.pipeline.name: settle(run, failures)[c.cell_key].state for c in run.plan.cells}
    assert states == {"fedavg": State.FAILED, "refuse_all": State.DONE}


def test_a_continuation_must_fit_beside_its_prompt(plan: Plan) -> None:
    compute = plan.suite.compute
    fits = replace(plan, suite=plan.suite.model_copy(update={"compute": compute.model_copy(update={"max_length": 12})}))
    check_prompts(fits)  # 5 tokens of a prompt, 6 of a continuation, and one that some engines generate after it
    less = replace(plan, suite=plan.suite.model_copy(update={"compute": compute.model_copy(update={"max_length": 11})}))
    with pytest.raises(UsageError, match="held/0 with its answer takes 12 tokens"):
        check_prompts(less)


def test_judges_refuse_digests_and_say_the_way_out(run: Run) -> None:
    answer(run)
    key = cell(run.plan, "clean", "fedavg").response_key
    run.store.write("responses", key, without_texts("responses", run.store.read("responses", key), {"asked": "hash"}))
    message = "digest in place of the answer to 'asked/0', .*only hashes are published; run the cells again"
    with pytest.raises(UsageError, match=message):
        responses_to(run.plan.world.probes(), run.store)
    judging = Judging(run.plan.world, run.store, run.engine, run.reporter)
    with pytest.raises(UsageError, match=message):
        judge_responses(judging, [key], ["rule"])
    assert run.store.keys("verdicts") == set()


def test_published_digests_give_the_scores_of_the_runs_texts(run: Run, tmp_path: Path) -> None:
    write_catalog(run.plan, run.store)
    failures = answer(run)
    settle(run, failures)
    judge(run, [c.response_key for c in run.plan.cells])
    results = tmp_path / "results"
    publish(run.store, results, "micro")
    published = Store(results / "micro")
    answers = {row["probe_id"]: row["response"] for row in published.read_all("responses").to_pylist()}
    hashed = {probe for probe, text in answers.items() if is_withheld(text) or not text}
    assert {"asked/0", "asked/1"} <= hashed
    assert all(is_withheld(text) for text in published.read_all("probes")["instruction"].to_pylist())
    local, committed = (
        {cell.row["cell_key"]: dict(cell.metrics) for cell in scores(load_rows([root]))}
        for root in (run.store.root, results)
    )
    assert local == committed
    margins = {c.pipeline.name: "margin" in local[c.cell_key] for c in run.plan.cells}
    assert margins == {"fedavg": True, "refuse_all": False}
    assert load_rows([results], local=[run.store.root]).published.likelihoods.num_rows == 10
    with pytest.raises(UsageError, match="only hashes are published"):
        responses_to(run.plan.world.probes(), published)
