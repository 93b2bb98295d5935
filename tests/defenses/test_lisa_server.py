"""Lisa on the server: steps, proximal term and rows of a round, and what happens without finite numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmark.submission.practice import one_round, practice_server
from defenses.base import Objective, defenses
from tasks.base import DataKind

from .server import FakeServer


def test_a_round_by_hand() -> None:
    """The mean of the updates is (2, 1, 0), and the training here adds one."""
    server = FakeServer(20)
    updates, context = one_round([[1.0, 0.0, 0.0], [5.0, 4.0, 0.0]], counts=[3, 1], server=server)
    result = defenses.get("lisa_server").create().aggregate(updates, context)
    assert result.update.tolist() == [3.0, 2.0, 1.0]
    assert result.weights is not None
    assert result.weights.tolist() == [0.75, 0.25]
    assert [row.kind for row in server.tuned] == [DataKind.ALIGNED] * 10
    objective = server.options["objective"]
    assert (objective.proximal, objective.anchor.tolist()) == (1.0, [2.0, 1.0, 0.0])
    assert replace(objective, proximal=0.0, anchor=None) == Objective()


@pytest.mark.parametrize(
    ("rounds", "steps"), [(1, [8]), (2, [4, 4]), (3, [2, 3, 3]), (10, [0, 1, 1, 1, 1, 0, 1, 1, 1, 1])]
)
def test_all_rounds_together_have_the_steps_of_one_repair(rounds: int, steps: list[int]) -> None:
    taken = []
    for index in range(rounds):
        server = FakeServer()
        updates, context = one_round([[1.0, 0.0, 0.0]], server=server)
        result = defenses.get("lisa_server").create().aggregate(updates, replace(context, index=index, rounds=rounds))
        taken.append(server.options.get("steps", 0))
        assert result.update.tolist() == [2.0 if taken[-1] else 1.0, float(bool(taken[-1])), float(bool(taken[-1]))]
    assert taken == steps
    assert sum(steps) == FakeServer().steps


def test_without_finite_numbers_the_mean_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    server = FakeServer()
    monkeypatch.setattr(server, "finetune", lambda adapter, rows, **options: adapter / 0)
    result = defenses.get("lisa_server").create().aggregate(*one_round([[1.0, 2.0, 3.0]], server=server))
    assert result.update.tolist() == [1.0, 2.0, 3.0]


def test_refusals_become_likelier_than_after_the_mean() -> None:
    server = practice_server()
    matrix = 0.01 * torch.randn(3, server.layout.dimension, generator=torch.Generator().manual_seed(3))
    updates, context = one_round(matrix, server=server)
    result = defenses.get("lisa_server").create().aggregate(updates, context)
    rows = server.owned_aligned(16)
    losses = [server.gradient(context.broadcast + step, rows)[1] for step in (matrix.mean(dim=0), result.update)]
    assert losses[1] < losses[0]
    assert server.usage.finetune_steps == server.steps + 2
