"""FLTrust: trust by angle, lengths of the server's update, root rows and the round in which nobody is trusted."""

from __future__ import annotations

import math

import pytest
import torch

from benchmark.submission.practice import one_round
from defenses.base import defenses
from defenses.fltrust import combined

from .server import FakeServer


def test_three_updates_by_hand() -> None:
    """The server's update is (1, 1, 1); the cosines are 1, 1 / sqrt(3) and -1, and all lengths become sqrt(3)."""
    server = FakeServer(500)
    rows = [[2.0, 2.0, 2.0], [5.0, 0.0, 0.0], [-1.0, -1.0, -1.0]]
    result = defenses.get("fltrust").create().aggregate(*one_round(rows, server=server))
    total = 1 + 1 / math.sqrt(3)
    assert result.update.tolist() == pytest.approx([2 / total, 1 / total, 1 / total])
    assert result.weights is not None
    assert result.weights.tolist() == pytest.approx([1 / total, 1 / math.sqrt(3) / total, 0.0])
    assert {row.instruction.split()[0] for row in server.tuned} == {"task"}, "the root rows are normal"
    assert len(server.tuned) == 100
    assert server.options == {"index": 0}, "the server trains as a client of the round"


@pytest.mark.parametrize("rows", [[[-1.0, -2.0, 0.0]], [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]], [[1.0, -1.0, 0.0]]])
def test_without_trust_the_model_stays(rows: list[list[float]]) -> None:
    result = defenses.get("fltrust").create().aggregate(*one_round(rows, server=FakeServer()))
    assert not result.update.any()
    assert result.weights is not None
    assert not result.weights.any()


def test_a_server_that_learned_nothing_trusts_nobody() -> None:
    result = combined(torch.ones(2, 3), torch.zeros(3))
    assert not result.update.any()
    assert not result.weights.any()  # type: ignore[union-attr]


@pytest.mark.parametrize("length", [1e-30, 1e-3, 1e15, 1e30])
def test_the_length_of_an_update_means_nothing(length: float) -> None:
    generator = torch.Generator().manual_seed(1)
    matrix, root = torch.randn(5, 40, generator=generator) + 0.5, torch.randn(40, generator=generator) + 0.5
    scaled = matrix.clone()
    scaled[2] *= length
    plain, long = combined(matrix, root), combined(scaled, root)
    torch.testing.assert_close(long.update, plain.update)
    torch.testing.assert_close(long.weights, plain.weights, rtol=1e-5, atol=1e-8)


def test_it_equals_the_formula_on_random_updates() -> None:
    generator = torch.Generator().manual_seed(2)
    matrix, root = torch.randn(7, 30, generator=generator), torch.randn(30, generator=generator)
    trust = torch.nn.functional.cosine_similarity(matrix, root[None]).relu()
    scaled = matrix / matrix.norm(dim=1, keepdim=True) * root.norm()
    torch.testing.assert_close(combined(matrix, root).update, trust @ scaled / trust.sum())
