"""A training job: what it derives from a training, and how long it holds a model that only a part of it needs."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from attacks.base import attacks
from benchmark.execution import job
from benchmark.execution.bench import Bench, JobTools
from benchmark.execution.job import run_job
from benchmark.execution.plan import make_plan
from benchmark.models.lora import import_peft, initial_adapter
from benchmark.records.adapters import Usage, read_record
from benchmark.records.store import Store
from benchmark.seeds import torch_stream
from benchmark.suites.suite import Suite
from benchmark.training.federation import Setting, run_federation
from benchmark.training.schedule import cast
from defenses.base import Defense
from tests.benchmark.execution.test_client_rows import opened, suite_with
from tests.benchmark.execution.test_sourced_suites import root

__all__ = ["root"]

TINY = Path(__file__).resolve().parents[2] / "end_to_end" / "tiny.yaml"


@pytest.fixture
def reattacked() -> Suite:
    """The tiny suite with an axis of re-attacks."""
    content = yaml.safe_load(TINY.read_text(encoding="utf-8"))
    points = [{"value": 0, "scenario": "attacked"}, {"value": 3, "id": "again", "set": {"reattack_rounds": 3}}]
    section = {"id": "rounds", "title": "Rounds", "description": "Rounds after the repair.", "base": "attacked"}
    content["sensitivity"] = {"seeds": [1], "defenses": ["fedavg", "posthoc_public"], "axes": [section]}
    section["points"] = points
    return Suite.model_validate(content)


def test_a_reattack_is_a_second_federation_from_the_repaired_adapter(tmp_path: Path, reattacked: Suite) -> None:
    plan = make_plan(reattacked, "transformers", axes=["rounds"])
    store = Store(tmp_path)
    scenario = reattacked.scenario("attacked")
    key = {(c.scenario.id, c.stage.name): c.adapter_key for c in plan.cells}
    (training_job,) = (each for each in plan.jobs if each.scenario.id == "attacked")
    assert run_job(reattacked, training_job, tmp_path, Bench()).failures == {}
    tools = JobTools(reattacked, scenario, 1, Bench())
    layout = tools.model.stacked.layout
    adapters = {
        name: import_peft(store.adapter_folder(k), layout) for name, k in key.items() if k in training_job.pipelines
    }
    training = reattacked.training.model_copy(update={"rounds": 3})
    federation = cast(scenario, training, tools.world.task_types, 1, ("reattack",))
    first = cast(scenario, training, tools.world.task_types, 1)
    assert (federation.client_ids, federation.compromised) == (first.client_ids, first.compromised)
    assert federation.participants != first.participants
    rows = tools.client_rows().rows
    for stage in ("fedavg", "posthoc_public"):
        setting = Setting(scenario, training, federation, rows, 1, owner="reattack", phase=("reattack",))
        start, attack = adapters["attacked", stage], attacks.get("unaligned_data").create({})
        again = run_federation(setting, tools.model.stacked, start, attack, Defense(), tools.server("reattack"))
        torch.testing.assert_close(again.adapter, adapters["again", stage], rtol=0, atol=1e-7)
        assert not torch.equal(again.adapter, adapters["attacked", stage])
        assert again.rounds[0].learning_rate == reattacked.training.learning_rate
        records = [read_record(store.adapter_folder(key[name, stage])) for name in ("attacked", "again")]
        sent = sum(len(r.clients) for r in again.rounds) * layout.dimension * 4
        assert records[1]["upload_bytes"] == records[0]["upload_bytes"] + sent
        assert records[1]["usage"] | {"server_seconds": 0} == records[0]["usage"] | {"server_seconds": 0}
    # The rounds table holds the rounds of the first federation only, because its training is shared.
    assert store.read("rounds", training_job.training_key).num_rows == reattacked.training.rounds


@pytest.mark.parametrize("fails", [False, True])
def test_the_external_model_is_let_go_after_a_finalizer(
    root: Path, fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite, bench = suite_with(external="external"), Bench()
    during: list[list[str]] = []

    class Asking:
        def finalize(self, adapter: Tensor, server: Any) -> Tensor:
            assert len(server.generate_external(["w1"], temperature=0.0)) == 1
            during.append(opened(bench.models))
            if fails:
                raise RuntimeError("no")
            return adapter

    monkeypatch.setattr(job, "created", lambda *_, **__: contextlib.nullcontext(Asking()))
    tools = JobTools(suite, suite.scenario("made"), 1, bench)
    start = initial_adapter(tools.model.stacked.layout, torch_stream(1, "test"))
    trained = job.Trained(start, {"usage": vars(Usage())})
    pipeline: Any = SimpleNamespace(name="x", finalizers=[SimpleNamespace(info=SimpleNamespace(id="x"))] * 2)
    with pytest.raises(RuntimeError, match="no") if fails else contextlib.nullcontext():
        assert torch.equal(job.finalize(tools, trained, pipeline).adapter, start)
    assert during == [["raw", "external"]] * (1 if fails else 2)
    assert opened(bench.models) == ["raw"]


def test_the_model_before_the_alignment_is_let_go_and_an_input(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite, bench = suite_with(unaligned="external"), Bench()
    during: list[list[str]] = []

    class Asking:
        def finalize(self, adapter: Tensor, server: Any) -> Tensor:
            assert len(server.generate_unaligned(["w1"], temperature=0.0)) == 1
            during.append(opened(bench.models))
            return adapter

    monkeypatch.setattr(job, "created", lambda *_, **__: contextlib.nullcontext(Asking()))
    tools = JobTools(suite, suite.scenario("made"), 1, bench)
    start = initial_adapter(tools.model.stacked.layout, torch_stream(1, "test"))
    trained = job.Trained(start, {"usage": vars(Usage())})
    pipeline: Any = SimpleNamespace(name="x", finalizers=[SimpleNamespace(info=SimpleNamespace(id="x"))])
    result = job.finalize(tools, trained, pipeline)
    assert during == [["raw"]], "the model is closed before the tool returns"
    assert (result.record["second_models"], result.record["usage"]["extra_models"]) == (["unaligned"], 1)
    assert job._second_models(trained) == set()
    assert job._second_models(job.Trained(start, {"usage": vars(Usage(extra_models=1))})) == {"external"}
    roles: list[list[str]] = []
    monkeypatch.setattr(tools.world, "inputs", lambda names: roles.append(names) or [])
    job._inputs(tools, result)
    assert roles == [["base", "unaligned"]]
