"""RESTA: half of the alignment's difference is added, cut to the largest singular values."""

from __future__ import annotations

import pytest
import torch

from benchmark.submission.practice import practice_server
from defenses._low_rank import alignment_difference, top_part
from defenses.base import defenses
from defenses.resta import GAMMA, RANKS

from .server import SHAPES, WeightServer, effect, random_server


def finalized(server: WeightServer, adapter: torch.Tensor) -> torch.Tensor:
    return defenses.get("resta").create().finalize(adapter, server)


def test_one_layer_by_hand() -> None:
    """V = 4 e₁ e₂ᵀ, so the served change is 2 B A + 0.5 V = 2 (1, 1)ᵀ (1, 0) + 2 e₁ e₂ᵀ."""
    server = WeightServer({"only": torch.ones(2, 2)}, {"only": torch.tensor([[1.0, 5.0], [1.0, 1.0]])})
    served = finalized(server, torch.tensor([1.0, 0.0, 1.0, 1.0]))
    assert effect(server.layout, served, "only").tolist() == [[2.0, 2.0], [2.0, 0.0]]
    assert server.layout.rank_of(len(served)) == 2, "V has rank 1"


@pytest.mark.parametrize("adapter_aligns", [False, True])
def test_half_of_the_difference_is_added_to_what_was_trained(adapter_aligns: bool) -> None:
    server, adapter = random_server(1, adapter_aligns=adapter_aligns)
    given = adapter.clone()
    served = finalized(server, adapter)
    assert torch.equal(adapter, given)
    for layer, shape in SHAPES.items():
        difference = alignment_difference(server, layer)
        left, values, right = torch.linalg.svd(difference, full_matrices=False)
        cut = (left[:, : 3 * 2] * values[: 3 * 2]) @ right[: 3 * 2]
        if adapter_aligns or min(shape) <= 3 * 2:
            torch.testing.assert_close(cut, difference, atol=1e-5, rtol=1e-5)
        added = effect(server.layout, served, layer) - effect(server.layout, adapter, layer)
        torch.testing.assert_close(added, GAMMA * cut, atol=1e-5, rtol=1e-5)
    # An alignment of rank 2 adds 2, the others as much as the smallest side of the largest layers, at most 3 r = 6
    assert server.layout.rank_of(len(served)) == (4 if adapter_aligns else 8)


def test_the_cut_keeps_most_of_the_embedded_model_s_alignment() -> None:
    server = practice_server()
    shares = []
    for count in (RANKS * server.layout.rank, server.layout.rank):
        differences = {layer: alignment_difference(server, layer) for layer in server.layout.layers}
        shares.append(min(float((top_part(v, count).right.norm() / v.norm()).square()) for v in differences.values()))
    assert shares[0] == pytest.approx(0.885, abs=0.005)
    assert shares[1] == pytest.approx(0.62, abs=0.005)


def test_no_tool_beside_the_weights_is_used() -> None:
    server, adapter = random_server(1, adapter_aligns=False)
    finalized(server, adapter)
    assert (server.sources, server.tuned) == ([], [])
