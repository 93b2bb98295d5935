"""Jobs that share a round: trained once by many processes, equal to training anew, and gone when no job needs it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmark.execution import stages
from benchmark.execution.bench import Bench
from benchmark.execution.job import JobReport, run_job
from benchmark.execution.job_memory import JobMemory
from benchmark.execution.plan import Plan, TrainingJob, make_plan
from benchmark.execution.run import Run
from benchmark.generation.select import EngineChoice
from benchmark.progress import Reporter
from benchmark.records.adapters import read_record
from benchmark.records.remembered import RememberedRounds
from benchmark.records.store import Store
from benchmark.screen import Screen
from benchmark.suites.suite import Suite
from benchmark.training.stacked import StackedModel

TINY = Path(__file__).resolve().parents[2] / "end_to_end" / "tiny.yaml"
LIMIT = 1 << 30


def suite_of(rounds: int, attack: str = "boosted_data", defenses: Any = "all") -> Suite:
    """Return the tiny suite with so many rounds and an attack that crafts updates."""
    content = yaml.safe_load(TINY.read_text(encoding="utf-8"))
    content["training"]["rounds"] = rounds
    content["scenarios"][0]["attack"] = {"id": attack}
    return Suite.model_validate(content | {"defenses": defenses, "pipelines": []})


def plan_of(suite: Suite, scenario: str) -> Plan:
    return make_plan(suite, "transformers", scenarios=[scenario])


def trained(store: Store, job: TrainingJob) -> tuple[bytes, list[dict[str, Any]]]:
    """Return the bytes of a job's adapter, and its rounds without times."""
    rounds = store.read("rounds", job.training_key).drop_columns("aggregate_seconds").to_pylist()
    return (store.adapter_folder(job.training_key) / "adapter_model.safetensors").read_bytes(), rounds


def counted_job(suite: Suite, job: TrainingJob, root: Path, bench: Bench, memory: RememberedRounds) -> JobReport:
    """Run a job and add a line to a file for each round of local training; fine-tuning trains a single adapter."""
    train = StackedModel.train

    def counted(self: StackedModel, *arguments: Any, **options: Any) -> Any:
        if len(arguments[1]) > 1:
            with (root / "trained.txt").open("a") as file:
                file.write(f"{job.scenario.id}\n")
        return train(self, *arguments, **options)

    StackedModel.train = counted  # type: ignore[method-assign]
    try:
        return run_job(suite, job, root, bench, memory)
    finally:
        StackedModel.train = train  # type: ignore[method-assign]


@pytest.mark.slow
@pytest.mark.parametrize("rounds", [1, 2])
def test_remembered_training_equals_training_anew_for_every_rule(tmp_path: Path, rounds: int) -> None:
    suite = suite_of(rounds)
    jobs = [job for job in plan_of(suite, "attacked").jobs if job.scenario.id == "attacked"]
    assert len(jobs) >= 9
    anew, remembered = Store(tmp_path / "anew"), Store(tmp_path / "remembered")
    memory, bench = RememberedRounds.of(remembered.root, LIMIT), Bench()
    for job in jobs:
        assert run_job(suite, job, anew.root, bench).failures == {}
        report = counted_job(suite, job, remembered.root, bench, memory)
        assert report.failures == {}
        assert trained(remembered, job) == trained(anew, job)
    sharers = [job for job in jobs if job.local_key]
    starts = len({job.local_key for job in sharers})
    # Rules that change the start train on their own; all others share one round.
    assert 1 < starts < len(sharers) - 9
    assert len(memory.used) == starts
    lines = (remembered.root / "trained.txt").read_text().splitlines()
    assert len(lines) == starts + len(sharers) * (rounds - 1)
    if rounds == 1:
        # The seconds of the training are those of every rule, but for the milliseconds of aggregation.
        found = [memory.read(entry.stem) for entry in memory.folder.iterdir()]
        assert len(found) == starts
        least = min(each.seconds for each in found if each is not None)
        for job in sharers:
            seconds = read_record(remembered.adapter_folder(job.training_key))["train_seconds"]
            assert seconds >= least - 1e-3


@pytest.mark.slow
def test_two_processes_train_nothing_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "run_job", counted_job)
    suite, said = suite_of(1), io.StringIO()
    plan, store = plan_of(suite, "unattacked"), Store(tmp_path)
    reporter = Reporter(Screen(file=said, width=300))
    run = Run(plan, store, EngineChoice("transformers", ""), reporter, workers=2)
    assert stages.train(run) == {}
    sharers = [job for job in plan.jobs if job.local_key]
    assert len(sharers) >= 9
    starts = len({job.local_key for job in sharers})
    assert 1 < starts < len(sharers) - 9, "rules that change the start train on their own"
    assert (store.root / "trained.txt").read_text().splitlines() == ["unattacked"] * starts
    count, none = len(plan.jobs), len(plan.jobs) - len(sharers)
    assert (
        f"{count} of {count} trainings to do; clients train in {starts} of them, {len(sharers) - starts} reuse the "
        f"local training of another, and in {none} no client trains"
    ) in said.getvalue()
    assert not (store.root / "remembered").exists()
    assert stages.pending_jobs(plan, store) == []


def test_entries_stay_as_long_as_an_open_job_needs_them(tmp_path: Path) -> None:
    suite = suite_of(1, defenses=["fedavg", "krum", "median"])
    plan, store = make_plan(suite, "transformers"), Store(tmp_path)
    memory = JobMemory(plan, list(plan.jobs), store, LIMIT)
    assert memory.sharers == list(plan.jobs)
    disk = memory.of(plan.jobs[0])
    assert disk is not None
    disk.folder.mkdir()
    entries = {job.local_key: disk.folder / f"{job.local_key}.safetensors" for job in plan.jobs}
    for path in entries.values():
        path.touch()
    first, second = (jobs_of(plan, name) for name in ("attacked", "unattacked"))
    for job in (*first, *second[1:]):
        finish(store, job)
        memory.settle(JobReport(job.training_key, {}, (job.local_key,)))
        assert entries[first[0].local_key].exists() == (job in first[:-1])
    memory.settle(JobReport(second[0].training_key, {"x": "failed"}, (second[0].local_key,)))
    memory.close()
    assert list(disk.folder.iterdir()) == [entries[second[0].local_key]]  # the next run repeats the failed job
    # Its repetition reads and writes nothing; after it, the folder is gone.
    again = JobMemory(plan, [second[0]], store, LIMIT)
    assert again.sharers == []
    reading = again.of(second[0])
    assert reading is not None
    assert reading.limit == 0
    finish(store, second[0])
    again.settle(JobReport(second[0].training_key, {}))
    again.close()
    assert not disk.folder.exists()


def jobs_of(plan: Plan, scenario: str) -> list[TrainingJob]:
    return [job for job in plan.jobs if job.scenario.id == scenario]


def finish(store: Store, job: TrainingJob) -> None:
    """Store what makes a training count as done."""
    store.write("rounds", job.training_key, [])
    store.write_json(store.adapter_folder(job.training_key) / "run.json", {})


def test_what_no_other_job_shares_is_neither_read_nor_written(tmp_path: Path) -> None:
    alone = plan_of(suite_of(1, defenses=["fedavg", "keep_initial"]), "unattacked")
    memory = JobMemory(alone, list(alone.jobs), Store(tmp_path), LIMIT)
    assert [memory.of(job) for job in alone.jobs] == [None, None]
    shared = plan_of(suite_of(1, defenses=["fedavg", "krum"]), "unattacked")
    memory = JobMemory(shared, list(shared.jobs), Store(tmp_path), 0)
    assert [memory.of(job) for job in shared.jobs] == [None, None]
    assert memory.sharers == []
