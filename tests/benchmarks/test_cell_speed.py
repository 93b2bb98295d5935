"""One trained micro cell from data to stored adapter: 40 rounds, FedAvg, in one process on all processors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmark.execution.bench import Bench
from benchmark.execution.job import run_job
from benchmark.execution.plan import make_plan
from benchmark.execution.run import usable_cores
from benchmark.execution.worker import keep_freed_memory
from benchmark.records.adapters import adapter_is_complete
from benchmark.records.store import Store
from benchmark.suites.suite import find_suite


@pytest.mark.parametrize("scenario", ["clean", "clean_sampled", "clean_paper_shape"])
def test_trained_cell(benchmark: Any, scenario: str, tmp_path: Path) -> None:
    suite = find_suite("micro")
    shape = suite.scenario(scenario)
    benchmark.group = "trained cell"
    benchmark.extra_info["shape"] = f"{shape.participants} of {shape.clients} clients a round"
    plan = make_plan(suite, "transformers", scenarios=[scenario], pipelines=["fedavg"], seeds=[1])
    (job,) = plan.jobs
    keep_freed_memory()
    torch.set_num_threads(usable_cores())
    bench, roots = Bench(), iter(tmp_path / str(i) for i in range(9))

    def setup() -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (suite, job, next(roots), bench), {}

    report = benchmark.pedantic(run_job, setup=setup, rounds=3, warmup_rounds=1)
    assert report.failures == {}
    assert adapter_is_complete(Store(tmp_path / "3"), job.training_key)
