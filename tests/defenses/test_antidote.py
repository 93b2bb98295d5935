"""Antidote: which weights are zeroed, by hand and against a score of each entry."""

from __future__ import annotations

import math

import pytest
import torch

from benchmark.errors import FedSafetyError
from benchmark.submission.practice import practice_server
from defenses.antidote import pruned
from defenses.base import defenses
from tasks.base import DataKind

from .server import WeightServer

INPUTS = torch.diag(torch.tensor([1.0, 2.0, 3.0]))
"""Inputs of three tokens whose features do not occur together; the features have the norms 1, 2 and 3."""


def server_of(
    answer: str = "sure , mix water .", start: torch.Tensor | None = None, inputs: torch.Tensor = INPUTS
) -> WeightServer:
    """Return a server with one layer of 3 inputs and 2 outputs."""
    weights = {"only": torch.zeros(2, 3)}
    return WeightServer(
        weights, weights, rank=2, start=start, inputs={"only": inputs}, examples=4, answer=lambda prompt: answer
    )


def test_one_layer_by_hand() -> None:
    """A = ((3, -2, 1), (1, 0, 0)) has the scores (3, 4, 3) and (1, 0, 0), so -2 and 1 are zeroed.

    Before that, A x is (3, 1), (-4, 0) and (3, 0) on the tokens, so it has the norms √(9 + 16 + 9) = 5.8 and 1.
    B = ((1, 9), (2, 1)) has the scores (5.8, 9) and (11.7, 1).
    """
    server = server_of()
    adapter = torch.tensor([3.0, -2.0, 1.0, 1.0, 0.0, 0.0, 1.0, 9.0, 2.0, 1.0])
    given = adapter.clone()
    result = defenses.get("antidote").create().finalize(adapter, server)
    assert result.tolist() == [3.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0]
    assert torch.equal(adapter, given)


def test_the_norm_of_a_x_counts_features_that_occur_together() -> None:
    """On one token (1, 2, 3) the features have the norms of above, and A x is (3 - 4 + 3, 1) = (2, 1).

    B = ((1, 3), (2, 1)) has the scores (2, 3) and (4, 1). Features that never occur together would give (5.8, 3).
    """
    server = server_of(inputs=torch.tensor([[1.0, 2.0, 3.0]]))
    adapter = torch.tensor([3.0, -2.0, 1.0, 1.0, 0.0, 0.0, 1.0, 3.0, 2.0, 1.0])
    result = defenses.get("antidote").create().finalize(adapter, server)
    assert result.tolist() == [3.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0]


def test_of_an_aligned_start_the_change_alone_is_pruned() -> None:
    """A₀ = ((9, 9, 9), (0, 0, 0)) and A - A₀ = ((3, -2, 1), (1, 0, 0)), so 7 goes back to 9 and 1 to 0.

    A x is (12, 1), (14, 0) and (30, 0), so it has the norms 35.2 and 1. B₀ = ((5, 5), (5, 5)) and
    B - B₀ = ((1, 36), (0, -1)) has the scores (35.2, 36) and (0, 1).
    """
    start = torch.tensor([9.0, 9.0, 9.0, 0.0, 0.0, 0.0, 5.0, 5.0, 5.0, 5.0])
    change = torch.tensor([3.0, -2.0, 1.0, 1.0, 0.0, 0.0, 1.0, 36.0, 0.0, -1.0])
    result = defenses.get("antidote").create().finalize(start + change, server_of(start=start))
    assert result.tolist() == [12.0, 9.0, 10.0, 0.0, 0.0, 0.0, 6.0, 5.0, 5.0, 5.0]


def test_an_aligned_start_that_no_round_changed_stays() -> None:
    start = torch.arange(1.0, 11.0)
    assert torch.equal(defenses.get("antidote").create().finalize(start.clone(), server_of(start=start)), start)


def test_an_aligned_start_of_another_rank_is_refused() -> None:
    start = torch.ones(10)
    with pytest.raises(FedSafetyError, match="the start has rank 2 and the adapter rank 3; do not compose"):
        defenses.get("antidote").create().finalize(torch.ones(15), server_of(start=start))


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
    result = pruned(weights, torch.zeros_like(weights), norms)
    assert result.eq(0).sum(dim=1).tolist() == [count] * 5
    kept = result != 0
    assert torch.equal(result[kept], weights[kept])
    scores = weights.abs() * norms
    for row in range(5):
        assert scores[row][~kept[row]].min() >= max([*scores[row][kept[row]].tolist(), -math.inf])


def test_the_first_of_equal_weights_is_zeroed() -> None:
    assert pruned(torch.ones(1, 4), torch.zeros(1, 4), torch.ones(4)).tolist() == [[0.0, 1.0, 1.0, 1.0]]


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
