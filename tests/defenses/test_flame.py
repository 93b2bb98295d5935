"""FLAME: the majority's cluster of models, clipped to the median norm, with noise."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from defenses._examples import one_round
from defenses.flame import Flame, _model_products

from .rounds import accepts, identity


def clustered(seed=0):
    """Return ten updates ``[10, 500]``: seven around one direction, the last three around another."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(2, 500, generator=generator)
    rows = directions[[0] * 7 + [1] * 3]
    return rows + 0.3 * torch.randn(10, 500, generator=generator)


def test_the_minority_gets_no_weight(aggregate):
    result = aggregate("flame", clustered())
    assert not result.weights[7:].any()
    assert bool((result.weights[:7] > 0).sum() >= 6)


def test_the_kept_updates_are_clipped_to_the_median_norm_of_all(aggregate):
    rows = clustered()
    rows[0] *= 100
    rows[7:] *= 50
    result = aggregate("flame", rows)
    norms = rows.double().norm(dim=1)
    bound = norms.quantile(0.5)
    clipped = rows.double() * (bound / norms).clamp(max=1)[:, None]
    error = result.update.double() - result.weights @ clipped
    assert result.weights[0] > 0
    assert float(error.std()) == pytest.approx(0.001 * float(bound), rel=0.15)


def test_models_are_compared_and_not_updates():
    """Beside a long broadcast adapter, the opposite updates of the first three clients give nearly the same model."""
    updates, context = one_round([[1.0, 0.0], [-1.0, 0.0], [0.5, 0.0], [0.0, 60.0], [0.0, 62.0]])
    beside = replace(context, broadcast=torch.tensor([100.0, 0.0]))
    assert Flame().aggregate(updates, beside).weights.tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0, 0])
    # Without it, the two pairs of one direction and the opposite client join at the same right angle.
    assert Flame().aggregate(updates, context).weights.tolist() == pytest.approx([0.2] * 5)


def test_products_of_models_need_no_models():
    generator = torch.Generator().manual_seed(4)
    matrix, broadcast = torch.randn(5, 70_000, generator=generator), torch.randn(70_000, generator=generator)
    models = (matrix + broadcast).double()
    torch.testing.assert_close(_model_products(matrix, broadcast), models @ models.T, rtol=1e-6, atol=1e-2)


def test_the_noise_is_that_of_the_rules_own_stream(aggregate):
    rows = clustered()
    first, again, other = (aggregate("flame", rows, seed=seed).update for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_one_update_is_enough():
    assert accepts("flame", 1, 9)
    assert identity("flame", 1, 0) is None
