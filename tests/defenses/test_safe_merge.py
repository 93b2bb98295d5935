"""SafeMERGE: the half of the layers that agree least with the alignment gets a fifth of a safety adapter."""

from __future__ import annotations

import pytest
import torch

from defenses.base import defenses
from tasks.base import DataKind

from .server import SHAPES, WeightServer, effect, random_server


def finalized(server: WeightServer, adapter: torch.Tensor) -> torch.Tensor:
    return defenses.get("safe_merge").create().finalize(adapter, server)


def test_one_of_two_layers_by_hand() -> None:
    """The change of the first layer is across the alignment, that of the second one along it.

    Fine-tuning adds 1 to the start (A of ones, B of zeros), so the safety adapter has A = (2, 2) and B = (1, 1)ᵀ.
    The merged layer is 2 (0.8 (3, 4)ᵀ (1, 0) + 0.2 (1, 1)ᵀ (2, 2)).
    """
    unaligned = {"first": torch.zeros(2, 2), "second": torch.zeros(2, 2)}
    aligned = {"first": torch.tensor([[2.0, 0.0], [0.0, 0.0]]), "second": torch.tensor([[0.0, 0.0], [0.0, 5.0]])}
    server = WeightServer(unaligned, aligned, examples=10)
    served = finalized(server, torch.tensor([1.0, 0.0, 3.0, 4.0, 1.0, 1.0, 0.0, 7.0]))
    first = effect(server.layout, served, "first")
    torch.testing.assert_close(first, torch.tensor([[5.6, 0.8], [7.2, 0.8]]).double(), atol=1e-6, rtol=0)
    assert effect(server.layout, served, "second").tolist() == [[0.0, 0.0], [14.0, 14.0]]
    assert [row.kind for row in server.tuned] == [DataKind.ALIGNED] * 5
    assert server.options == {}


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("adapter_aligns", [False, True])
def test_layers_below_the_median_are_merged_exactly(seed: int, adapter_aligns: bool) -> None:
    server, adapter = random_server(seed, adapter_aligns=adapter_aligns)
    given = adapter.clone()
    served = finalized(server, adapter)
    assert torch.equal(adapter, given)
    scores, merged = {}, set()
    for layer in SHAPES:
        start, safety = (effect(server.layout, vector, layer) for vector in (server.start(), server.start() + 1))
        trained, result = (effect(server.layout, vector, layer) for vector in (adapter, served))
        # The weights add up to 1, so that merging the changes from the start is merging the adapters.
        whole = start + 0.8 * (trained - start) + 0.2 * (safety - start)
        if torch.allclose(result, whole, atol=1e-4):
            merged.add(layer)
        else:
            torch.testing.assert_close(result, trained)
        difference = (server.weights(layer) - server.weights(layer, aligned=False)).double()
        onto = difference @ difference.T @ (trained - start)
        scores[layer] = float((onto * (trained - start)).sum() / onto.norm() / (trained - start).norm())
    assert merged == set(sorted(scores, key=scores.__getitem__)[:4])
