"""Norm clipping with noise: the clipped mean, plus Gaussian noise in proportion to the median norm."""

from __future__ import annotations

import pytest
import torch

from defenses.norm_clipping_noise import NOISE

from .rounds import accepts, identity


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_the_noise_is_that_of_seven_noises_averaged(aggregate, scale):
    matrix = scale * torch.randn(7, 40_000, generator=torch.Generator().manual_seed(1))
    noise = aggregate("norm_clipping_noise", matrix).update - aggregate("norm_clipping", matrix).update
    bound = float(matrix.norm(dim=1).median())
    assert float(noise.std()) == pytest.approx(bound * 0.002 / 3 / 7**0.5, rel=0.02)
    assert float(noise.mean()) == pytest.approx(0, abs=bound * 1e-5)


def test_the_noise_is_that_of_the_rules_own_stream(aggregate):
    rows = [[3.0, 4.0], [6.0, 8.0], [0.0, 1.0]]
    drawn = torch.randn(2, generator=torch.Generator().manual_seed(5))
    expected = torch.tensor([2.0, 3.0]) + 5 * NOISE / 3**0.5 * drawn
    torch.testing.assert_close(aggregate("norm_clipping_noise", rows, seed=5).update, expected)


def test_unequal_shares_add_their_squares(aggregate):
    drawn = torch.randn(1, generator=torch.Generator().manual_seed(5))
    noise = aggregate("norm_clipping_noise", [[1.0], [1.0]], counts=[3, 1], seed=5).update - 1
    torch.testing.assert_close(noise, NOISE * (0.75**2 + 0.25**2) ** 0.5 * drawn)


def test_an_attacker_cannot_raise_the_noise(aggregate):
    rows = torch.randn(7, 1000, generator=torch.Generator().manual_seed(2))
    honest = aggregate("norm_clipping_noise", rows).update - aggregate("norm_clipping", rows).update
    rows[:3] *= 1e6
    attacked = aggregate("norm_clipping_noise", rows).update - aggregate("norm_clipping", rows).update
    assert float(attacked.std()) < 1.2 * float(honest.std())


def test_zero_updates_get_no_noise(aggregate):
    assert not aggregate("norm_clipping_noise", torch.zeros(5, 10)).update.any()


def test_one_update_is_enough():
    assert accepts("norm_clipping_noise", 1, 9)
    assert identity("norm_clipping_noise", 1, 0) is None
