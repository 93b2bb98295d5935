"""Steps that the forms of Safe LoRA share, against their definitions."""

from __future__ import annotations

import pytest
import torch

from defenses._safe_lora_layers import lowest_layers, score, weighted, weighting


def test_the_weighting_is_the_product_divided_by_one_norm() -> None:
    difference = torch.randn(6, 9, generator=torch.Generator().manual_seed(1))
    expected = difference @ difference.T / difference.square().sum().sqrt()
    torch.testing.assert_close(weighting(difference), expected)
    columns = torch.randn(6, 4, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(weighted(difference, columns), expected @ columns)


def test_a_layer_that_the_alignment_left_alone_has_no_weighting() -> None:
    assert not weighted(torch.zeros(3, 5), torch.ones(3, 2)).any()
    assert score(torch.ones(3, 2), torch.ones(2, 5), torch.zeros(3, 2)) == 1.0


def test_the_score_is_the_cosine_of_the_flat_matrices() -> None:
    generator = torch.Generator().manual_seed(3)
    difference, left = torch.randn(6, 9, generator=generator), torch.randn(6, 4, generator=generator)
    right = torch.randn(4, 7, generator=generator)
    product = left @ right
    expected = torch.nn.functional.cosine_similarity(
        (weighting(difference) @ product).flatten(), product.flatten(), dim=0
    )
    assert score(left, right, weighted(difference, left)) == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize(("layers", "count"), [(1, 1), (3, 1), (14, 3), (64, 10), (210, 33)])
def test_ten_of_64_layers_are_projected(layers: int, count: int) -> None:
    scores = [1.0 - place / layers for place in range(layers)]
    assert lowest_layers(scores) == list(range(layers - count, layers))
