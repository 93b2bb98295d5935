"""A round in a sandbox beside the same round in the process, at 10 updates of 4,194,304 float32 numbers.

The peer does what most simulators do: it pickles the round through ``multiprocessing.Pipe`` to a process that is not
isolated at all. All three compute the same weighted mean.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmark.methods.kinds import DEFENSE
from benchmark.methods.source import find_method
from benchmark.sandbox.defense import sandboxed_defense
from benchmark.updates import Aggregate, RoundContext, Updates
from defenses.base import Defense

Round = tuple[Updates, RoundContext]

GROUP = "a round in a sandbox"
ROUNDS = {"rounds": 15, "warmup_rounds": 3}

SUBMISSION = '''
"""The base class's mean, as a submission."""

from benchmark.updates import Aggregate, RoundContext, Updates
from defenses.base import Defense, Knowledge, Stage, register


@register(
    title="Mean",
    description="The mean of the updates, weighted by sample counts.",
    stages=(Stage.AGGREGATE,),
    knowledge=Knowledge.NONE,
)
class SpeedOfMean(Defense):
    def aggregate(self, updates: Updates, context: RoundContext) -> Aggregate:
        return Defense.aggregate(self, updates, context)
'''


@pytest.fixture
def sandboxed(tmp_path: Path) -> Iterator[Defense]:
    file = tmp_path / "speed_of_mean.py"
    file.write_text(SUBMISSION)
    defense = sandboxed_defense(find_method(str(file), DEFENSE)).create()
    yield defense
    defense.close()  # type: ignore[attr-defined]


def _serve(connection: Connection) -> None:
    torch.set_num_threads(1)
    while (asked := connection.recv()) is not None:
        matrix, _, counts = map(torch.from_numpy, asked)
        weights = counts / counts.sum()
        connection.send(((weights.to(matrix.dtype) @ matrix).numpy(), weights.numpy()))


@pytest.fixture
def pickling() -> Iterator[Connection]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs,))
    process.start()
    yield ours
    ours.send(None)
    process.join()


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_in_the_process(benchmark: Any, one_large_round: Round) -> None:
    benchmark.group = GROUP
    result = benchmark.pedantic(Defense().aggregate, args=one_large_round, **ROUNDS)
    assert bool(torch.isfinite(result.update).all())


@pytest.mark.sandbox
def test_in_a_sandbox(benchmark: Any, one_large_round: Round, sandboxed: Defense) -> None:
    benchmark.group = GROUP
    result = benchmark.pedantic(sandboxed.aggregate, args=one_large_round, **ROUNDS)
    assert torch.equal(result.update, Defense().aggregate(*one_large_round).update)


def test_pickled_to_another_process(benchmark: Any, one_large_round: Round, pickling: Connection) -> None:
    benchmark.group = GROUP
    updates, context = one_large_round
    matrix, broadcast, counts = (
        tensor.numpy() for tensor in (updates.matrix, context.broadcast, updates.sample_counts)
    )

    def aggregate() -> Aggregate:
        pickling.send((matrix, broadcast, counts))
        found: tuple[np.ndarray, np.ndarray] = pickling.recv()
        return Aggregate(*map(torch.from_numpy, found))

    result = benchmark.pedantic(aggregate, **ROUNDS)
    assert torch.equal(result.update, Defense().aggregate(*one_large_round).update)
