"""Algebra of LoRA products against the same on whole matrices."""

from __future__ import annotations

import pytest
import torch

from benchmark.updates import AdapterLayout
from defenses._low_rank import Product, alignment_score, flat, least_aligned, products, projected, top_part

from .server import effect, random_server


def product(seed: int, out: int = 5, width: int = 7, rank: int = 2) -> Product:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((out, rank), (rank, width))
    return Product(*(torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes))


def whole(low: Product) -> torch.Tensor:
    return low.left @ low.right


def test_sums_differences_and_inner_products_are_those_of_the_matrices() -> None:
    first, second = product(1), product(2, rank=3)
    torch.testing.assert_close(whole(first + second), whole(first) + whole(second))
    torch.testing.assert_close(whole(first - second.scaled(3.0)), whole(first) - 3 * whole(second))
    assert first.inner(second) == pytest.approx(float((whole(first) * whole(second)).sum()))


def test_a_product_without_effect_adds_no_rank() -> None:
    first, fresh = product(1), Product(torch.zeros(5, 2).double(), product(2).right)
    assert (first - fresh) is first
    assert (first - product(2)).left.shape == (5, 4)


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (6, 6)])
@pytest.mark.parametrize("count", [1, 3, 20])
def test_the_top_part_is_the_truncated_singular_value_decomposition(shape: tuple[int, int], count: int) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    part = top_part(matrix, count)
    torch.testing.assert_close(whole(part), (left[:, :count] * values[:count]) @ right[:count])
    kept = min(count, *shape)
    torch.testing.assert_close(part.left.T @ part.left, torch.eye(kept, dtype=torch.float64))
    torch.testing.assert_close(part.right.norm(dim=1), values[:kept])
    assert (part.left.gather(0, part.left.abs().argmax(dim=0, keepdim=True)) > 0).all()


@pytest.mark.parametrize("shape", [(60, 90), (90, 60)])
@pytest.mark.parametrize("count", [3, 50])
def test_the_top_part_of_a_large_matrix_is_nearly_the_same(
    shape: tuple[int, int], count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    exact = top_part(matrix, count)
    monkeypatch.setattr("defenses._low_rank.EXACT_SIDE", 10)
    part = top_part(matrix, count)
    assert not torch.equal(part.left, exact.left)
    assert torch.equal(part.left, top_part(matrix, count).left)
    # The spectrum of noise is the hardest: the error may exceed the least one by a little.
    least = float(values[count:].square().sum().sqrt())
    assert float((whole(part) - matrix).norm()) <= 1.005 * least
    steep = (left * values * 0.9 ** torch.arange(60)) @ right
    torch.testing.assert_close(
        whole(top_part(steep, 3)), (left[:, :3] * values[:3] * 0.9 ** torch.arange(3)) @ right[:3]
    )


def test_rounding_errors_of_weights_are_no_part_of_a_matrix_of_low_rank() -> None:
    exact = whole(product(4, out=30, width=20, rank=3))
    weights = torch.randn(30, 20, generator=torch.Generator().manual_seed(5))
    difference = (weights + exact.float()).double() - weights.double()
    part = top_part(difference, 20)
    assert part.left.shape == (30, 3)
    torch.testing.assert_close(whole(part), exact, atol=1e-5, rtol=0)


def test_the_top_part_of_zeros_is_empty() -> None:
    part = top_part(torch.zeros(3, 4, dtype=torch.float64), 2)
    assert (part.left.shape, part.right.shape) == ((3, 0), (0, 4))


@pytest.mark.parametrize("adapter_aligns", [False, True])
def test_a_flat_adapter_and_its_products_convert_into_each_other(adapter_aligns: bool) -> None:
    server, adapter = random_server(1, adapter_aligns=adapter_aligns)
    assert torch.equal(flat(server.layout, products(server.layout, adapter), adapter), adapter)


def test_layers_of_lower_rank_are_filled_with_zeros() -> None:
    layout = AdapterLayout(("a.lora_A", "a.lora_B", "b.lora_A", "b.lora_B"), ((1, 2), (3, 1), (1, 4), (2, 1)))
    layers = {"a": product(1, 3, 2, 3), "b": product(2, 2, 4, 1)}
    adapter = flat(layout, layers, torch.zeros(1))
    assert (adapter.dtype, layout.rank_of(len(adapter))) == (torch.float32, 3)
    for layer, low in layers.items():
        torch.testing.assert_close(effect(layout, adapter, layer, 1.0).float(), whole(low).float())
    assert layout.of_rank(3).views(adapter)["b.lora_B"][:, 1:].eq(0).all()


def test_the_projection_and_the_score_are_those_of_the_formula() -> None:
    difference, change = whole(product(6, 5, 5, 4)), product(7, 5, 9)
    onto = difference @ difference.T / difference.norm() @ whole(change)
    torch.testing.assert_close(whole(projected(difference, change)), onto)
    cosine = torch.nn.functional.cosine_similarity(onto.flatten(), whole(change).flatten(), dim=0)
    assert alignment_score(difference, change) == pytest.approx(float(cosine))


def test_the_score_does_not_depend_on_lengths() -> None:
    difference, change = whole(product(6, 5, 5, 4)), product(7, 5, 9)
    scaled = alignment_score(100 * difference, change.scaled(1e-3))
    assert scaled == pytest.approx(alignment_score(difference, change))


def test_without_a_change_or_an_alignment_nothing_is_to_correct() -> None:
    difference, change = whole(product(6, 5, 5, 4)), product(7, 5, 9)
    assert alignment_score(difference, change.scaled(0.0)) == 1.0
    assert alignment_score(torch.zeros(5, 5).double(), change) == pytest.approx(1.0)
    assert projected(torch.zeros(5, 5).double(), change) is change


def test_the_earlier_of_two_equal_layers_is_chosen() -> None:
    assert least_aligned({"a": 0.5, "b": 0.1, "c": 0.1, "d": 0.0}, 2) == ["d", "b"]
