"""Starts that defenses make in the place of the alignment: made once, independent of the run seed, and forecast."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmark.errors import FedSafetyError
from benchmark.execution import prepared
from benchmark.execution.bench import Bench, JobTools
from benchmark.execution.job import run_job
from benchmark.execution.prepared import aligning_entry, lacking, make_prepared, prepared_start
from benchmark.generation.needs import Device
from benchmark.prediction.forecast import predict
from benchmark.records.adapters import read_record
from benchmark.records.store import Store
from defenses.base import defenses
from tests.benchmark.execution.test_alignment import pools, suite_of
from tests.benchmark.execution.test_sourced_suites import changed, plan_of, root

__all__ = ["pools", "root"]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The seeds of the jobs whose start was made."""
    seeds: list[int] = []
    make = prepared._made
    monkeypatch.setattr(prepared, "_made", lambda tools, entry: seeds.append(tools.seed) or make(tools, entry))
    return seeds


def test_all_seeds_and_scenarios_share_a_start_that_is_made_once(tmp_path: Path, made: list[int]) -> None:
    suite, bench, store = suite_of(defenses=["vaccine"]), Bench(), Store(tmp_path / "runs")
    jobs = plan_of(suite).jobs
    assert len({(job.scenario.id, job.seed) for job in jobs}) == len(jobs) == 4
    assert len(lacking(suite, jobs, store)) == 1
    make_prepared(suite, jobs[0], store.root, bench)
    assert lacking(suite, jobs, store) == {}
    for job in jobs:
        assert run_job(suite, job, store.root, bench).failures == {}
        usage = read_record(store.adapter_folder(job.training_key))["usage"]
        assert (usage["finetune_steps"], usage["owned_aligned"], usage["owned_normal"]) == (3, 9, 3)
        assert usage["server_seconds"] > 0
    assert made == [jobs[0].seed]


def test_the_start_does_not_depend_on_the_seed_and_is_what_the_store_gives(tmp_path: Path, made: list[int]) -> None:
    suite, entry, store = suite_of(), defenses.get("vaccine"), Store(tmp_path)
    one, two = (JobTools(suite, suite.scenario("made"), seed, Bench()) for seed in (1, 2))
    first, second = prepared_start(one, entry), prepared_start(two, entry)
    assert torch.equal(first.adapter, second.adapter)
    assert not torch.equal(first.adapter, one.start)
    kept = JobTools(suite, suite.scenario("made"), 3, Bench(), store)
    third, read = prepared_start(kept, entry), prepared_start(kept, entry)
    assert torch.equal(read.adapter, third.adapter)
    assert torch.equal(read.adapter, first.adapter)
    assert (read.usage, read.opened) == (third.usage, third.opened)
    assert made == [1, 2, 3]


def test_other_methods_and_suites_without_an_alignment_make_none(tmp_path: Path, made: list[int]) -> None:
    assert all(aligning_entry(suite_of(), job) is None for job in plan_of(suite_of()).jobs)
    plain = changed(defenses=["vaccine"])
    assert lacking(plain, plan_of(plain).jobs, Store(tmp_path)) == {}
    assert run_job(plain, plan_of(plain).jobs[0], tmp_path, Bench()).failures == {}
    assert made == []


def test_a_method_that_fails_fails_its_own_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite, store = suite_of(defenses=["vaccine"]), Store(tmp_path)
    monkeypatch.setattr(defenses.get("vaccine").target, "prepare", lambda self, server: torch.zeros(3))
    job = plan_of(suite).jobs[0]
    make_prepared(suite, job, store.root, Bench())
    assert len(lacking(suite, [job], store)) == 1
    (reason,) = set(run_job(suite, job, store.root, Bench()).failures.values())
    assert "shape (3,)" in reason


def test_a_damaged_record_names_the_file(tmp_path: Path) -> None:
    suite = suite_of(defenses=["vaccine"])
    make_prepared(suite, plan_of(suite).jobs[0], tmp_path, Bench())
    (record,) = (tmp_path / "alignment").glob("*.usage.json")
    record.write_text("{}")
    tools = JobTools(suite, suite.scenario("made"), 1, Bench(), Store(tmp_path))
    with pytest.raises(FedSafetyError, match=r"usage\.json \(.*\); delete it and run again"):
        prepared_start(tools, defenses.get("vaccine"))


@pytest.mark.parametrize(("methods", "trainings"), [(["fedavg"], 1), (["vaccine"], 3), (["vaccine", "booster"], 6)])
def test_the_forecast_counts_each_method_once(methods: list[str], trainings: int) -> None:
    device = Device("cpu", "processor", 8 << 30)

    def alignment(names: list[str]) -> Any:
        return predict(plan_of(suite_of(defenses=names)), device).alignment.executed

    assert alignment(methods) == pytest.approx(trainings * alignment(["fedavg"]))
