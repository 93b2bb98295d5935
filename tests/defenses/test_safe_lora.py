"""Safe LoRA: which layers are projected, and what is served, by hand and against the formula on whole matrices."""

from __future__ import annotations

import math

import pytest
import torch

from benchmark.submission.practice import practice_server
from defenses.base import defenses
from defenses.safe_lora import SHARE, projected_layers

from .server import SHAPES, WeightServer, effect, random_server


def finalized(server: WeightServer, adapter: torch.Tensor) -> torch.Tensor:
    return defenses.get("safe_lora").create().finalize(adapter, server)


def test_one_of_two_layers_by_hand() -> None:
    """The first layer was aligned by diag(2, 0), so C = diag(2, 0); the change (3, 4)ᵀ (1, 0) becomes (6, 0)ᵀ (1, 0).

    The second layer was aligned along its change, with a cosine of 1. One of two layers is 10 / 64 of them, rounded up.
    """
    unaligned = {"first": torch.zeros(2, 2), "second": torch.zeros(2, 2)}
    aligned = {"first": torch.tensor([[2.0, 0.0], [0.0, 0.0]]), "second": torch.tensor([[0.0, 0.0], [0.0, 5.0]])}
    server = WeightServer(unaligned, aligned)
    # A and B of the first layer, then of the second one
    adapter = torch.tensor([1.0, 0.0, 3.0, 4.0, 1.0, 1.0, 0.0, 7.0])
    assert finalized(server, adapter).tolist() == [1.0, 0.0, 6.0, 0.0, 1.0, 1.0, 0.0, 7.0]


def expected(server: WeightServer, adapter: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return s B A of each layer after the method, on whole matrices."""
    scores, kept, corrected = {}, {}, {}
    for layer in SHAPES:
        difference = (server.weights(layer) - server.weights(layer, aligned=False)).double()
        start, kept[layer] = effect(server.layout, server.start(), layer), effect(server.layout, adapter, layer)
        onto = difference @ difference.T / difference.norm() @ (kept[layer] - start)
        corrected[layer] = start + onto
        scores[layer] = float((onto * (kept[layer] - start)).sum() / onto.norm() / (kept[layer] - start).norm())
    limit = sorted(scores.values())[math.ceil(len(SHAPES) * SHARE) - 1]
    return {layer: corrected[layer] if scores[layer] <= limit else kept[layer] for layer in SHAPES}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("adapter_aligns", [False, True])
def test_served_layers_are_those_of_the_formula(seed: int, adapter_aligns: bool) -> None:
    server, adapter = random_server(seed, adapter_aligns=adapter_aligns)
    given = adapter.clone()
    served = finalized(server, adapter)
    assert torch.equal(adapter, given)
    assert server.layout.rank_of(len(served)) == (4 if adapter_aligns else 2)
    moved = 0
    for layer, whole in expected(server, adapter).items():
        torch.testing.assert_close(effect(server.layout, served, layer), whole, atol=1e-4, rtol=1e-4)
        moved += not torch.allclose(whole, effect(server.layout, adapter, layer))
    assert moved == 2, "10 / 64 of 7 layers, rounded up"


def test_the_factor_a_is_untouched_where_the_start_has_no_effect() -> None:
    server, adapter = random_server(0, adapter_aligns=False)
    places = server.layout.mask("A")
    assert torch.equal(finalized(server, adapter)[places], adapter[places])


def test_a_model_that_did_not_change_stays() -> None:
    server, _ = random_server(0, adapter_aligns=True)
    served = finalized(server, server.start())
    for layer in SHAPES:
        start = effect(server.layout, server.start(), layer)
        torch.testing.assert_close(effect(server.layout, served, layer), start, atol=1e-5, rtol=1e-5)


def test_an_adapter_of_a_higher_rank_is_corrected_like_the_same_adapter() -> None:
    server, adapter = random_server(1, adapter_aligns=False)
    first = finalized(server, adapter)
    views, wide = server.layout.views(adapter), server.layout.of_rank(3)
    padded = torch.zeros(wide.dimension)
    for name, view in wide.views(padded).items():
        view[: views[name].shape[0], : views[name].shape[1]] = views[name]
    second = finalized(server, padded)
    for layer in SHAPES:
        torch.testing.assert_close(effect(server.layout, first, layer), effect(server.layout, second, layer))


def test_three_of_the_embedded_model_s_fourteen_layers_are_projected() -> None:
    server = practice_server()
    noise = torch.randn(server.layout.dimension, generator=torch.Generator().manual_seed(1))
    adapter = server.start() + 0.01 * noise
    served = defenses.get("safe_lora").create().finalize(adapter, server)
    before, after = server.layout.views(adapter), server.layout.views(served)
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert len(changed) == 3
    assert all(name.endswith("lora_B") for name in changed)
    assert server.usage.finetune_steps == server.usage.owned_aligned == server.usage.generated_pairs == 0


@pytest.mark.parametrize(("layers", "count"), [(1, 1), (3, 1), (14, 3), (64, 10), (210, 33)])
def test_ten_of_64_layers_are_projected(layers: int, count: int) -> None:
    scores = {str(place): 1.0 - place / layers for place in range(layers)}
    assert sorted(projected_layers(scores), key=int) == [str(place) for place in range(layers - count, layers)]


def test_of_tied_layers_the_earlier_ones_are_projected() -> None:
    scores = [0.9, 0.2, 0.5, 0.2, 0.8, 0.7, 0.6, 0.4, 0.3, 0.2, 1.0, 1.0, 1.0, 0.2]
    assert projected_layers({str(place): score for place, score in enumerate(scores)}) == ["1", "3", "9"]
