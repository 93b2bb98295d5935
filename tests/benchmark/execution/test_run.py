"""The default number of training processes."""

from __future__ import annotations

import pytest

from benchmark.execution.run import default_workers, usable_cores, workers_that_fit
from benchmark.models.sizes import GIB


@pytest.mark.parametrize(
    ("cores", "available", "process", "workers"),
    [
        (2, 24, 1, 2),  # processors set the number
        (16, 28, 6, 4),  # a laptop with a model of 135 million parameters
        (16, 6, 6, 1),
        (16, 5, 6, 1),  # what cannot fit even once is refused elsewhere
        (1, 64, 1, 1),
    ],
)
def test_processes_fit_into_processors_and_memory(cores: int, available: int, process: int, workers: int) -> None:
    assert workers_that_fit(cores, available * GIB, process * GIB) == workers


def test_the_default_follows_from_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("benchmark.execution.run.available_memory", lambda: 3 * GIB)
    monkeypatch.setattr("benchmark.execution.run.usable_cores", lambda: 16)
    assert default_workers() == 3
    assert default_workers(2 * GIB) == 1
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert default_workers() == 1
    assert usable_cores() >= 1
