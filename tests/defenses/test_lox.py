"""LoX: the start's alignment is extrapolated, inside the rank of the suite's adapters."""

from __future__ import annotations

import pytest
import torch

from benchmark.submission.practice import practice_server
from defenses._low_rank import alignment_difference
from defenses.base import defenses
from defenses.lox import ALPHA, DIRECTIONS

from .server import SHAPES, WeightServer, effect, random_server


def prepared(server: WeightServer) -> torch.Tensor:
    return defenses.get("lox").create().prepare(server)


def top(matrix: torch.Tensor, count: int) -> torch.Tensor:
    """Return the best approximation of a matrix by ``count`` singular values."""
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    return (left[:, :count] * values[:count]) @ right[:count]


def test_one_layer_by_hand() -> None:
    """V = 8 e₁ e₂ᵀ, so the start is 1.25 V = 2 · 5 e₁ e₂ᵀ, with the root of 5 in both factors."""
    server = WeightServer({"only": torch.ones(2, 2)}, {"only": torch.tensor([[1.0, 9.0], [1.0, 1.0]])})
    start = prepared(server)
    assert start.tolist() == pytest.approx([0.0, 5**0.5, 5**0.5, 0.0])
    assert start.dtype == torch.float32


@pytest.mark.parametrize("rank", [2, 8])
def test_the_added_term_becomes_the_adapter_where_the_start_has_no_effect(rank: int) -> None:
    server, _ = random_server(1, adapter_aligns=False, rank=rank)
    start, fresh = prepared(server), server.layout.views(server.start())
    assert len(start) == server.layout.dimension
    views = server.layout.views(start)
    for layer, shape in SHAPES.items():
        kept = min(rank, DIRECTIONS, *shape)
        expected = ALPHA * top(alignment_difference(server, layer), kept)
        torch.testing.assert_close(effect(server.layout, start, layer), expected, atol=1e-5, rtol=1e-5)
        a, b = views[f"{layer}.lora_A"], views[f"{layer}.lora_B"]
        torch.testing.assert_close(a.norm(dim=1)[:kept], b.norm(dim=0)[:kept])
        # The other directions are free for the clients' training, as in a fresh adapter.
        assert torch.equal(a[kept:], fresh[f"{layer}.lora_A"][kept:])
        assert not b[:, kept:].any()


@pytest.mark.parametrize("rank", [2, 7])
def test_an_adapter_that_aligns_the_start_is_extrapolated_in_place(rank: int) -> None:
    server, _ = random_server(1, adapter_aligns=True, rank=rank)
    start = prepared(server)
    places = server.layout.mask("A")
    assert torch.equal(start[places], server.start()[places])
    for layer in SHAPES:
        whole = effect(server.layout, server.start(), layer)
        expected = whole + ALPHA * top(whole, DIRECTIONS)
        torch.testing.assert_close(effect(server.layout, start, layer), expected, atol=1e-4, rtol=1e-4)


def test_an_adapter_beside_another_alignment_is_cut_to_the_rank() -> None:
    server, _ = random_server(1, adapter_aligns=False)
    generator = torch.Generator().manual_seed(2)
    both = WeightServer(
        server._weights[False],
        server._weights[True],
        2,
        torch.randn(server.layout.dimension, generator=generator),
    )
    start = prepared(both)
    for layer in SHAPES:
        added = ALPHA * top(alignment_difference(both, layer), DIRECTIONS)
        expected = top(effect(both.layout, both.start(), layer) + added, 2)
        torch.testing.assert_close(effect(both.layout, start, layer), expected, atol=1e-4, rtol=1e-4)


def test_a_layer_that_was_not_aligned_keeps_the_fresh_adapter() -> None:
    weights = {"only": torch.ones(3, 4)}
    server = WeightServer(weights, weights)
    assert torch.equal(prepared(server), server.start())


def test_the_embedded_model_starts_from_six_directions_and_two_fresh_ones() -> None:
    server = practice_server()
    start = prepared(server)
    for name, view in server.layout.views(start).items():
        if name.endswith("lora_B"):
            assert view[:, :DIRECTIONS].any(dim=0).all()
            assert not view[:, DIRECTIONS:].any()
    assert torch.equal(start, prepared(practice_server()))
