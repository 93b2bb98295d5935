"""The alignment stage: one start for all trainings, made once or shipped, in their keys, and checked before them."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch
import yaml

from benchmark.errors import FedSafetyError, InputsMissingError, UsageError
from benchmark.execution import alignment
from benchmark.execution.alignment import aligned_start, make_start
from benchmark.execution.bench import Bench, JobTools
from benchmark.execution.job import run_job
from benchmark.execution.plan import Plan
from benchmark.execution.run import Run
from benchmark.execution.stages import run_plan
from benchmark.execution.worlds import open_alignment
from benchmark.generation.select import EngineChoice
from benchmark.keys import file_digest
from benchmark.models.lora import import_peft, initial_adapter
from benchmark.prediction.measured import predict
from benchmark.records.store import Store
from benchmark.seeds import torch_stream
from benchmark.suites.suite import Suite, read_suite
from tests.benchmark.execution.test_sourced_suites import WORDS, cell, changed, content, plan_of, reporter, root, source

__all__ = ["root"]

SETTINGS = {
    "start": "base",
    "data": {"taught": 0.75, "ordinary": 0.25},
    "rows": 12,
    "steps": 3,
    "batch_size": 4,
    "learning_rate": 1e-2,
    "seed": 5,
}


def suite_of(**alignment: Any) -> Suite:
    """Return the made suite with an alignment; ``defenses=…`` sets the suite's."""
    defenses = alignment.pop("defenses", ["fedavg", "keep_initial"])
    pools = content()["data"]["pools"] | {"taught": source("taught", "aligned"), "ordinary": source("ordinary")}
    return changed(data__pools=pools, defenses=defenses, alignment=SETTINGS | alignment)


@pytest.fixture(autouse=True)
def pools(root: Path) -> None:
    for name, opening in (("taught", "w2"), ("ordinary", "w3")):
        rows = [{"instruction": f"{opening} {WORDS[10 + i]}", "response": f"w33 {WORDS[12 + i]}"} for i in range(20)]
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = [{"instruction": f"w6 {WORDS[10 + i]}"} for i in range(4)]
    (root / "safe.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))


def run_of(plan: Plan, store: Store) -> Run:
    return Run(plan, store, EngineChoice("transformers", ""), reporter(io.StringIO()))


def test_every_training_starts_from_the_same_rounded_adapter_which_is_made_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite, bench, store = suite_of(), Bench(), Store(tmp_path / "runs")
    made = []
    train = alignment.train_start
    monkeypatch.setattr(alignment, "train_start", lambda *arguments: made.append(1) or train(*arguments))
    starts = {}
    for job in plan_of(suite).jobs:
        assert run_job(suite, job, store.root, bench).failures == {}
        tools = JobTools(suite, job.scenario, job.seed, bench, store)
        starts[job.scenario.id, job.seed] = tools.start
        if "keep_initial" in job.pipelines.values():
            served = import_peft(store.adapter_folder(job.training_key), tools.model.stacked.layout)
            assert torch.equal(served, tools.start)
    assert len(made) == 1
    first, *others = starts.values()
    assert len(others) == 3
    assert all(torch.equal(first, other) for other in others)
    assert torch.equal(first, first.to(torch.bfloat16).float())
    fresh = initial_adapter(tools.model.stacked.layout, torch_stream(5, "adapter-init"))
    assert not torch.equal(first, fresh)
    views = tools.model.stacked.layout.views(first)
    assert all(view.any() for view in views.values())


def test_the_broadcast_start_is_the_model_that_the_server_asks(tmp_path: Path) -> None:
    tools = JobTools(suite_of(), suite_of().scenario("made"), 1, Bench(), Store(tmp_path))
    server, prompts = tools.server("mine"), [f"w2 w{10 + i}" for i in range(8)]
    asked = server.generate(prompts, adapter=None, temperature=0.0)
    assert asked == server.generate(prompts, adapter=tools.start, temperature=0.0)
    bare = server.generate(prompts, adapter=torch.zeros(server.layout.dimension), temperature=0.0)
    unaligned = JobTools(changed(), changed().scenario("made"), 1, Bench()).server("mine")
    assert bare == unaligned.generate(prompts, adapter=None, temperature=0.0) != asked
    assert torch.equal(server.start(), tools.start)
    server.start().zero_()
    assert torch.equal(server.start(), tools.start)


def test_alignment_tools_are_metered_and_do_nothing_without_an_alignment(tmp_path: Path) -> None:
    tools = JobTools(suite_of(), suite_of().scenario("made"), 1, Bench(), Store(tmp_path))
    server = tools.server("mine")
    rows = server.alignment_examples()
    assert len(rows) == server.alignment_rows == 12
    assert {(row.task, str(row.kind)) for row in rows} == {("taught", "aligned"), ("ordinary", "normal")}
    further = server.align(server.start(), rows)
    assert further.shape == server.start().shape
    assert not torch.equal(further, server.start())
    assert (server.usage.owned_aligned, server.usage.owned_normal, server.usage.finetune_steps) == (9, 3, 3)
    assert server.usage.generated_pairs == 0
    with pytest.raises(FedSafetyError, match=r"'mine' called align\(\) with no example"):
        server.align(server.start(), [])
    bare = JobTools(changed(), changed().scenario("made"), 1, Bench()).server("mine")
    assert (bare.alignment_rows, bare.alignment_examples()) == (0, [])
    assert (server.has_unaligned, bare.has_unaligned) == (True, False)
    start = bare.start()
    assert bare.align(start, rows) is start
    assert bare.usage == type(bare.usage)()


def test_keys_hold_settings_data_and_a_shipped_digest_and_nothing_without_an_alignment(
    root: Path, tmp_path: Path
) -> None:
    before = cell(plan_of(suite_of())).training_key
    assert before != cell(plan_of(changed())).training_key
    for other in ({"steps": 4}, {"seed": 6}, {"data": {"taught": 0.5, "ordinary": 0.5}}, {"weight_decay": 0.1}):
        assert cell(plan_of(suite_of(**other))).training_key != before
    expects = {"harmful": "asked", "least_refused": 0, "benign": "safe", "most_refused": 1}
    assert cell(plan_of(with_expectations(**expects))).training_key != before  # a probe set more
    # Scenarios that start from another role are as they were.
    models = content()["models"] | {"other": content()["models"]["base"]}
    pools = content()["data"]["pools"] | {"taught": source("taught", "aligned")}
    of_other = SETTINGS | {"start": "other", "data": "taught"}
    elsewhere = [changed(models=models, data__pools=pools, alignment=which) for which in (of_other, None)]
    assert len({cell(plan_of(suite)).cell_key for suite in elsewhere}) == 1
    shipped = {name: tmp_path / f"{name}.safetensors" for name in ("one", "again")}
    digests = {name: make_start(suite_of(), path, Bench()).sha256 for name, path in shipped.items()}
    assert digests["one"] == digests["again"] == file_digest(shipped["one"])
    keys = {
        cell(plan_of(suite_of(adapter={"file": str(path), "sha256": digests[name]}))).training_key
        for name, path in shipped.items()
    }
    assert len(keys) == 1
    with (root / "taught.jsonl").open("a") as file:
        file.write(json.dumps({"instruction": "w2 w1", "response": "w2"}) + "\n")
    assert cell(plan_of(suite_of())).training_key != before


def test_a_shipped_adapter_is_the_start_and_lies_beside_the_suite_file(tmp_path: Path) -> None:
    made = make_start(suite_of(), tmp_path / "start.safetensors", Bench())
    shipped = suite_of(adapter={"file": "start.safetensors", "sha256": made.sha256})
    (tmp_path / "made.yaml").write_text(yaml.safe_dump(shipped.model_dump(mode="json")))
    suite = read_suite(tmp_path / "made.yaml")
    for each in (suite, suite.tier("smoke")):
        assert each.alignment is not None
        assert each.alignment.adapter is not None
        assert each.alignment.adapter.path == tmp_path / "start.safetensors"
    assert str(tmp_path) not in json.dumps(suite.model_dump(mode="json"))
    assert torch.equal(
        aligned_start(suite, Bench().models, None), aligned_start(suite_of(), Bench().models, Store(tmp_path / "runs"))
    )


def with_expectations(development: Mapping[str, str] = MappingProxyType({}), **expects: Any) -> Suite:
    """Return the made suite with bounds and with development prompts, name → file."""
    made = content()
    safe = {**made["data"]["probes"][0]["source"], "local": "safe.jsonl"}
    probe = {"id": "safe", "kind": "over_refusal", "stratum": "safe", "source": safe, "max_new_tokens": 4}
    pools = made["data"]["pools"] | {"taught": source("taught", "aligned"), "ordinary": source("ordinary")}
    return changed(
        data__pools=pools,
        data__probes=[*made["data"]["probes"], probe],
        data__development={name: {**safe, "local": file} for name, file in development.items()},
        defenses=["fedavg"],
        alignment=SETTINGS | {"expects": expects},
    )


def test_a_start_outside_its_bounds_stops_the_run_with_the_measured_shares(tmp_path: Path) -> None:
    expects = {"harmful": "asked", "least_refused": 0.5, "benign": "safe", "most_refused": 0.9, "prompts": 3}
    store = Store(tmp_path / "runs")
    message = r"refuses 0% of asked and 0% of safe, but the suite expects at least 50% and at most 90%"
    for _ in range(2):  # the second time from the measurement in the store
        with pytest.raises(FedSafetyError, match=message):
            run_plan(run_of(plan_of(with_expectations(**expects)), store))
    assert not list(store.root.glob("adapters/*"))
    assert len(list(store.root.glob("alignment/*.json"))) == 1


def test_a_run_with_an_alignment_ends_in_rows_that_name_it(tmp_path: Path) -> None:
    store, suite = Store(tmp_path / "runs"), suite_of(defenses=["keep_initial"]).tier("smoke")
    plan = plan_of(suite)
    assert run_plan(run_of(plan, store)).failed_cells == ()
    (start,) = store.root.glob("alignment/*.safetensors")
    rows = [row for row in store.read_all("inputs").to_pylist() if row["kind"] == "alignment"]
    assert {(row["name"], row["source"], row["resolved"], row["rows"]) for row in rows} == {
        ("base", "made by the run", f"sha256:{file_digest(start)}", 12)
    }
    names = {row["name"] for row in store.read_all("inputs").to_pylist()}
    assert {"pool/taught", "pool/ordinary"} < names
    before = start.stat().st_mtime_ns
    assert run_plan(run_of(plan, store)).failed_cells == ()
    assert start.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("at", "message"),
    [
        ({"start": "bas"}, "unknown start model of the alignment 'bas'; did you mean 'base'"),
        ({"data": {"taugt": 1}}, "unknown pool of the alignment 'taugt'; did you mean 'taught'"),
        ({"learning_rate_floor": 1.0}, r"learning_rate_floor 1.0 exceeds learning_rate 0.01"),
        ({"adapter": {"file": "x", "sha256": "1234"}}, "String should match pattern"),
        (
            {"expects": {"harmful": "askd", "least_refused": 1, "benign": "asked", "most_refused": 1}},
            r"unknown set of prompts \(harmful of alignment.expects\) 'askd'; did you mean 'asked'",
        ),
        (
            {"expects": {"harmful": "asked", "least_refused": 1, "benign": "asked", "most_refused": 1}},
            "names 'asked' as benign, which holds probes of kind 'harmful'; name a set of kind 'over_refusal'",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(at: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        suite_of(**at)


def test_expectations_may_name_development_prompts(tmp_path: Path) -> None:
    """The start answers them, and no probe set is needed for the check."""
    expects = {"harmful": "tried", "least_refused": 0.5, "benign": "safe", "most_refused": 0.9}
    suite = with_expectations({"tried": "safe.jsonl"}, **expects)
    with pytest.raises(FedSafetyError, match=r"refuses 0% of tried and 0% of safe"):
        run_plan(run_of(plan_of(suite), Store(tmp_path / "runs")))
    world = open_alignment(suite)
    assert world.development_prompts("tried")
    assert not any(probe.id.startswith("tried/") for probe in world.probes())


def test_an_alignment_needs_data_and_pools_of_the_right_kind(root: Path) -> None:
    bare = content() | {"data": None, "alignment": SETTINGS}
    for scenario in bare["scenarios"]:
        del scenario["data"]
    with pytest.raises(ValueError, match="alignment needs training rows and a model, but the suite has no 'data'"):
        Suite.model_validate(bare)
    with pytest.raises(UsageError, match="pool 'bad' has kind 'unaligned' and cannot serve as the alignment"):
        open_alignment(suite_of(data={"bad": 1}))
    with pytest.raises(UsageError, match="pool 'plain' serves both the alignment and benign:plain"):
        plan_of(suite_of(data={"plain": 1}))
    assert plan_of(suite_of(data={"refused": 1})).cells  # the server may own the rows of the alignment
    few = suite_of(data={"taught": 1}, rows=21)
    with pytest.raises(FedSafetyError, match=r"pool 'taught' has 20 rows .* and the alignment needs 21 different ones"):
        aligned_start(few, Bench().models, None)
    with pytest.raises(UsageError, match="suite 'made' has no alignment"):
        open_alignment(changed())


def test_a_shipped_file_that_does_not_fit_is_refused_before_anything_is_trained(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "start.safetensors"
    made = make_start(suite_of(), path, Bench())
    whole = path.read_bytes()

    def refused(suite: Suite, message: str, kind: type[Exception] = FedSafetyError) -> None:
        store = Store(tmp_path / "runs")
        with pytest.raises(kind, match=message):
            run_plan(run_of(plan_of(suite), store))
        assert not store.root.exists() or not [*store.root.rglob("*.parquet"), *store.root.rglob("*.safetensors")]

    shipped = {"file": str(path), "sha256": made.sha256}
    refused(suite_of(adapter=shipped | {"sha256": "0" * 64}), f"have the SHA-256 {made.sha256}, and the suite names 00")
    path.write_bytes(whole[:-10])
    refused(suite_of(adapter=shipped), "copy the file again")
    refused(suite_of(adapter=shipped | {"sha256": file_digest_of(path)}), "it cannot be read")
    path.unlink()
    refused(suite_of(adapter=shipped), f"{re.escape(str(path))} is missing", InputsMissingError)
    path.write_bytes(whole)
    other = suite_of(adapter=shipped)
    rank = other.model_copy(update={"lora": other.lora.model_copy(update={"rank": 3})})
    refused(rank, r"its adapter shape is .*'rank': 2.*, and the suite's lora is .*'rank': 3")
    base = other.model_copy(update={"models": {"base": other.models["base"].model_copy(update={"local": "chat"})}})
    refused(base, r"it was made for the base model 'made/base@sha256:.*, and the suite's start model is 'made/base@")


def file_digest_of(path: Path) -> str:
    file_digest.cache_clear()
    return file_digest(path)


@pytest.mark.slow
def test_a_prediction_makes_the_start_once_and_its_samples_read_it(tmp_path: Path) -> None:
    store = Store(tmp_path / "runs")
    prediction = predict(run_of(plan_of(suite_of(defenses=["fedavg"]), seeds=[1]), store))
    assert (prediction.trainings, prediction.response_sets) == (2, 2)
    assert len(list(store.root.rglob("*.safetensors"))) == 1
    assert not list(store.root.rglob("*.parquet"))
