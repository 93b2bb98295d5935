"""How long will it take: the prediction counts what is missing, times samples, and leaves nothing behind."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from benchmark.execution.plan import make_plan
from benchmark.execution.run import Run
from benchmark.execution.sharing import readers
from benchmark.generation.select import choose_engine
from benchmark.prediction.measured import JobCost, Prediction, job_seconds, predict
from benchmark.progress import Reporter
from benchmark.records.store import Store
from benchmark.suites.suite import find_suite

from .conftest import Fedsafety


@pytest.mark.slow
def test_the_command_counts_what_is_missing_and_stores_nothing(
    fedsafety: Fedsafety, tiny_suite: Path, tmp_path: Path
) -> None:
    chosen = ("--defense", "fedavg", "--defense", "posthoc_public", "--engine", "transformers")
    result = fedsafety("run", "--suite", tiny_suite, *chosen, "--runs", tmp_path / "runs", "--estimate")
    assert result.returncode == 0, result.stderr
    last = result.stdout.strip().splitlines()[-1]
    assert last.startswith("about ")
    assert "2 trainings and 2 derived adapters" in last
    assert "4 response sets" in last
    assert not list((tmp_path / "runs").rglob("*.parquet"))


@pytest.mark.slow
def test_of_a_finished_run_nothing_is_left_to_do(finished_run: Path, tiny_suite: Path) -> None:
    choice = choose_engine("transformers")
    plan = make_plan(find_suite(str(tiny_suite)), choice.name)
    found = predict(Run(plan, Store(finished_run), choice, Reporter(Console(file=io.StringIO())), workers=2))
    assert found == Prediction(0, 0, 0, 0.0, 0.0)


def test_the_time_of_jobs_adds_up(tiny_suite: Path) -> None:
    """Two scenarios x one seed; FedAvg derives posthoc_public, Krum derives krum+posthoc_public, FoolsGold none."""
    suite = find_suite(str(tiny_suite))
    suite = suite.model_copy(update={"training": suite.training.model_copy(update={"rounds": 10})})
    plan = make_plan(suite, "transformers")
    shapes = {
        (s.start, s.participants, s.clients, s.attack.id, s.training) for s in (job.scenario for job in plan.jobs)
    }
    costs = {shape: JobCost(data=4, fixed=1, round=3, adapter=5) for shape in shapes}
    trainings, derived, worlds = 6 * (1 + 10 * 3), 4 * 5, 2 * 4
    assert job_seconds(suite, plan.jobs, costs, workers=1) == pytest.approx(trainings + derived + worlds)
    assert job_seconds(suite, plan.jobs, costs, workers=2) == pytest.approx((trainings + derived) / 2 + worlds)
    # Of the three trainings of a scenario two reuse the first round, and one process makes the scenario's rows. The
    # other process makes those of the last scenario, too.
    reusing = readers(plan.jobs)
    assert len(reusing) == 4
    total = trainings - 4 * 3 + derived
    assert job_seconds(suite, plan.jobs, costs, 1, reusing) == pytest.approx(total + worlds)
    assert job_seconds(suite, plan.jobs, costs, 2, reusing) == pytest.approx((total + worlds + 4) / 2)
    # With one round, the first training of a scenario takes 9 (an adapter included), the others 6 and 1.
    short = suite.model_copy(update={"training": suite.training.model_copy(update={"rounds": 1})})
    one = [job for job in plan.jobs if job.scenario.id == "attacked"]
    assert job_seconds(short, one, costs, 9, reusing) == pytest.approx(9 + (6 + 1) / 9)
