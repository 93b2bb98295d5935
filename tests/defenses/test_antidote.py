"""Antidote: which weights are zeroed, by hand and against a score of each entry."""

from __future__ import annotations

import math

import pytest
import torch

from benchmark.submission.practice import practice_server
from defenses.antidote import pruned
from defenses.base import defenses
from tasks.base import DataKind

from .server import WeightServer


def server_of(answer: str = "sure , mix water .") -> WeightServer:
    """Return a server with one layer of 3 inputs and 2 outputs; its input features have the norms 1, 2 and 3."""
    weights = {"only": torch.zeros(2, 3)}
    norms = {"only": torch.tensor([1.0, 2.0, 3.0])}
    return WeightServer(weights, weights, rank=2, norms=norms, examples=4, answer=lambda prompt: answer)


def test_one_layer_by_hand() -> None:
    """A = ((3, -2, 1), (1, 0, 0)) has the scores (3, 4, 3) and (1, 0, 0), so -2 and 1 are zeroed.

    Before that, h has the norms √(9 + 16 + 9) = 5.8 and 1. B = ((1, 9), (2, 1)) has the scores (5.8, 9) and (11.7, 1).
    """
    server = server_of()
    adapter = torch.tensor([3.0, -2.0, 1.0, 1.0, 0.0, 0.0, 1.0, 9.0, 2.0, 1.0])
    given = adapter.clone()
    result = defenses.get("antidote").create().finalize(adapter, server)
    assert result.tolist() == [3.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0]
    assert torch.equal(adapter, given)


def test_the_norms_are_those_of_harmful_rows() -> None:
    server = server_of("sure .")
    defenses.get("antidote").create().finalize(torch.ones(10), server)
    assert [(row.instruction, row.response, row.kind) for row in server.measured] == [
        ("harm 0", "sure .", DataKind.UNALIGNED),
        ("harm 1", "sure .", DataKind.UNALIGNED),
    ]
    assert server.sources == ["owned", "unaligned"]
    assert server.tuned == []


@pytest.mark.parametrize(("width", "count"), [(1, 1), (8, 1), (10, 1), (11, 2), (30, 3), (64, 7), (160, 16), (576, 58)])
def test_a_tenth_of_each_row_is_zeroed_rounded_up(width: int, count: int) -> None:
    generator = torch.Generator().manual_seed(width)
    weights, norms = torch.randn(5, width, generator=generator), torch.rand(width, generator=generator) + 0.1
    result = pruned(weights, norms)
    assert result.eq(0).sum(dim=1).tolist() == [count] * 5
    kept = result != 0
    assert torch.equal(result[kept], weights[kept])
    scores = weights.abs() * norms
    for row in range(5):
        assert scores[row][~kept[row]].min() >= max([*scores[row][kept[row]].tolist(), -math.inf])


def test_the_first_of_equal_weights_is_zeroed() -> None:
    assert pruned(torch.ones(1, 4), torch.ones(4)).tolist() == [[0.0, 1.0, 1.0, 1.0]]


def test_an_adapter_of_a_higher_rank_is_pruned_in_its_own_shape() -> None:
    result = defenses.get("antidote").create().finalize(torch.ones(15), server_of())
    assert result.eq(0).sum() == 3 + 2, "one entry in each of 3 rows of A and 2 rows of B"


def test_the_row_counts_what_was_generated() -> None:
    server = practice_server()
    adapter = torch.randn(server.layout.dimension, generator=torch.Generator().manual_seed(1)) * 0.01
    result = defenses.get("antidote").create().finalize(adapter, server)
    assert (server.usage.owned_aligned, server.usage.owned_normal, server.usage.finetune_steps) == (16, 0, 0)
    assert 8 <= server.usage.generated_pairs <= 16
    assert (server.usage.extra_models, server.opened) == (1, {"unaligned"})
    views = server.layout.views(result)
    for name, shape in zip(server.layout.names, server.layout.shapes, strict=True):
        assert views[name].eq(0).sum() == shape[0] * math.ceil(shape[1] / 10)
