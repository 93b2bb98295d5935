"""Steps that rules with norm bounds share."""

from __future__ import annotations

import pytest
import torch

from defenses._clipping import add_noise, clip_factors, distances_to
from defenses._columns import BLOCK

from .rounds import LARGEST


def test_distances_over_several_blocks_are_those_of_float64():
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(3, 2 * BLOCK + 5, generator=generator)
    center = torch.randn(2 * BLOCK + 5, generator=generator)
    expected = (matrix.double() - center.double()).norm(dim=1)
    torch.testing.assert_close(distances_to(matrix, center), expected)


def test_distances_of_the_largest_floats_are_finite():
    distances = distances_to(torch.tensor([[LARGEST, LARGEST], [0.0, 0.0]]), torch.tensor([-LARGEST, 0.0]))
    assert distances.tolist() == pytest.approx([5**0.5 * LARGEST, LARGEST])


def test_factors_shorten_only_what_exceeds_the_bound():
    norms = torch.tensor([0.0, 1.0, 2.0, 4.0], dtype=torch.float64)
    assert clip_factors(norms, torch.tensor(2.0, dtype=torch.float64)).tolist() == [1.0, 1.0, 1.0, 0.5]
    assert clip_factors(norms, torch.tensor(0.0, dtype=torch.float64)).tolist() == [1.0, 0.0, 0.0, 0.0]


def test_noise_has_the_deviation_and_differs_from_block_to_block():
    update = torch.zeros(3 * BLOCK)
    add_noise(update, 0.25, torch.Generator().manual_seed(0))
    assert float(update.std()) == pytest.approx(0.25, rel=0.01)
    assert float(update.mean()) == pytest.approx(0, abs=0.005)
    assert not torch.equal(update[:BLOCK], update[BLOCK : 2 * BLOCK])


def test_noise_comes_from_the_generator_alone():
    first, second, third = torch.zeros(3, 10)
    add_noise(first, 1.0, torch.Generator().manual_seed(0))
    add_noise(second, 1.0, torch.Generator().manual_seed(0))
    add_noise(third, 1.0, torch.Generator().manual_seed(1))
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


def test_noise_stops_at_the_largest_float():
    update = torch.full((100,), LARGEST)
    add_noise(update, LARGEST, torch.Generator().manual_seed(0))
    assert bool(torch.isfinite(update).all())


def test_no_deviation_adds_nothing():
    update = torch.ones(5)
    add_noise(update, 0.0, torch.Generator().manual_seed(0))
    assert update.tolist() == [1.0] * 5
