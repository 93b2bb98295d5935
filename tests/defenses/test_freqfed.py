"""FreqFed: the mean of the majority's cluster of low frequencies."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from scipy.fft import dct

from benchmark.updates import AdapterLayout
from defenses._examples import one_round
from defenses.freqfed import FreqFed, _low_frequencies, _low_frequency_products

from .rounds import accepts, identity


def layout_of(*sizes):
    return AdapterLayout(tuple(f"layer{index}.lora_A" for index in range(len(sizes))), tuple((1, m) for m in sizes))


def wave(frequency, size=64):
    """Return a basis vector of the cosine transform."""
    return torch.cos(math.pi / size * frequency * (torch.arange(size) + 0.5))


def test_the_high_half_does_not_count():
    """The clients agree at frequency 3. Their tones at frequencies 40 and 50 are louder and lie in the high half."""
    rows = torch.stack([wave(3) + 9 * wave(40), wave(3) - 9 * wave(40), wave(3) + 9 * wave(50), wave(9)])
    result = FreqFed().aggregate(*one_round(rows))
    assert result.weights.tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0])
    torch.testing.assert_close(result.update, rows[:3].mean(dim=0))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 64, 101, 576])
def test_the_coefficients_are_those_of_scipy(size):
    signal = torch.randn(size, generator=torch.Generator().manual_seed(size), dtype=torch.float64)
    expected = dct(signal.numpy(), type=2, norm="ortho")[: (size + 1) // 2]
    assert _low_frequencies(signal).tolist() == pytest.approx(expected.tolist(), abs=1e-12)


def test_the_coefficient_in_the_middle_belongs_to_the_high_half():
    products = _low_frequency_products(torch.stack([wave(31), wave(32)]), layout_of(64))
    assert products.diagonal().tolist() == pytest.approx([32, 0], abs=1e-4)


def test_an_odd_tensor_keeps_the_larger_half():
    """Of three numbers two coefficients are kept: the mean, and the slope between the ends."""
    products = _low_frequency_products(torch.tensor([[1.0, 2.0, 6.0]]), layout_of(3))
    assert float(products) == pytest.approx(9**2 / 3 + (1 - 6) ** 2 / 2)


def test_every_tensor_is_a_signal_of_its_own():
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(4, 30, generator=generator)
    parts = [_low_frequency_products(part, layout_of(part.shape[1])) for part in matrix.split([10, 4, 16], dim=1)]
    torch.testing.assert_close(_low_frequency_products(matrix, layout_of(10, 4, 16)), sum(parts))


def test_the_layout_of_the_round_is_used():
    """As two tensors of one number the rows keep both numbers, as one tensor of two only their sum."""
    updates, context = one_round([[1.0, 2.0], [2.0, 1.0], [3.0, 0.0], [-1.0, 4.0], [0.5, 2.5]])
    assert FreqFed().aggregate(updates, context).weights.tolist() == pytest.approx([0.2] * 5)
    apart = replace(updates, layout=layout_of(1, 1))
    assert not FreqFed().aggregate(apart, context).weights.all()


def test_the_minority_gets_no_weight(aggregate):
    generator = torch.Generator().manual_seed(1)
    directions = torch.randn(2, 500, generator=generator)
    rows = directions[[0] * 7 + [1] * 3] + 0.3 * torch.randn(10, 500, generator=generator)
    weights = aggregate("freqfed", rows).weights
    assert not weights[7:].any()
    assert int((weights > 0).sum()) >= 6


def test_one_update_is_enough():
    assert accepts("freqfed", 1, 9)
    assert identity("freqfed", 1, 0) is None
