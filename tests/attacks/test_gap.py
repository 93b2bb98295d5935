"""GAP: factors stay in their balls, and their product approaches the trained one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from attacks.base import AttackerView, attacks
from attacks.gap import nearest_product
from benchmark.errors import UsageError
from benchmark.updates import AdapterLayout, Updates

LAYOUT = AdapterLayout(("x.lora_A", "x.lora_B", "y.lora_A", "y.lora_B"), ((2, 5), (4, 2), (2, 3), (6, 2)))


def factors(seed: int, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(2, 5, generator=generator), scale * torch.randn(4, 2, generator=generator)


def distance(found: tuple[Tensor, Tensor], target: tuple[Tensor, Tensor]) -> float:
    return float((found[1] @ found[0] - target[1] @ target[0]).norm())


def test_numbers_reach_a_product_in_their_balls() -> None:
    """From A = B = 1 with radii 1 the product 3 can be reached, by 1.732 each; 9 cannot, and 2 · 2 is nearest."""
    one = torch.ones(1, 1)
    a, b = nearest_product((torch.tensor([[3.0]]), one), (one, one), (1.0, 1.0))
    assert float(a * b) == pytest.approx(3.0, abs=1e-3)
    a, b = nearest_product((torch.tensor([[9.0]]), one), (one, one), (1.0, 1.0))
    assert (float(a), float(b)) == pytest.approx((2.0, 2.0), abs=1e-6)


@pytest.mark.parametrize("radius", [0.1, 0.5, 2.0])
def test_the_product_comes_nearer_inside_the_balls(radius: float) -> None:
    center, target = factors(1), factors(2)
    found = nearest_product(target, center, (radius, radius))
    for part, middle in zip(found, center, strict=True):
        assert float((part - middle).norm()) <= radius * (1 + 1e-6)
    assert distance(found, target) < distance(center, target)


def test_a_target_inside_the_balls_is_approached() -> None:
    center = factors(1)
    target = tuple(part + 0.05 * step for part, step in zip(center, factors(2), strict=True))
    found = nearest_product(target, center, (1.0, 1.0), steps=2000)
    assert distance(found, target) < 0.01 * distance(center, target)


def own(seed: int = 0) -> Updates:
    matrix = 0.1 * torch.randn(3, LAYOUT.dimension, generator=torch.Generator().manual_seed(seed))
    return Updates(matrix, ("a", "b", "c"), torch.ones(3, dtype=torch.float64), LAYOUT)


def test_what_is_sent_lies_around_the_last_change() -> None:
    attack, updates = attacks.get("gap").create({"radius": 0.3}), own()
    before, generator = updates.matrix.clone(), torch.Generator().manual_seed(5)
    first, second = (torch.randn(LAYOUT.dimension, generator=generator) for _ in range(2))
    attack.craft(updates, AttackerView(0, 10, first))
    sent = attack.craft(updates, AttackerView(1, 10, second)).matrix
    assert torch.equal(updates.matrix, before)
    moved = LAYOUT.views(second - first)
    for row, trained in zip(sent, before, strict=True):
        for name, part in LAYOUT.views(row).items():
            bound = 0.3 * LAYOUT.views(trained)[name].norm()
            assert (part - moved[name]).norm() <= bound * (1 + 1e-4)


def test_a_radius_that_is_not_positive_is_refused() -> None:
    with pytest.raises(UsageError, match="radius is 0"):
        attacks.get("gap").create({"radius": 0.0})
