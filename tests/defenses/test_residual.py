"""Residual-based reweighting: values far from the repeated-median line count less, and distant ones are replaced."""

from __future__ import annotations

import pytest
import torch

from .rounds import accepts, refusal


def test_the_published_vector(aggregate, second_set):
    expected = [0.45352, 0.21169, 0.32682, 0.16614]
    assert aggregate("residual", second_set, 2).update.tolist() == pytest.approx(expected, abs=6e-6)


def test_the_published_weights(aggregate, second_set):
    weights = aggregate("residual", second_set).weights.tolist()
    assert weights == pytest.approx([0.12826, *[0.14099] * 6, 0.01296, 0.01284], abs=6e-6)


def test_needs_3_updates():
    assert "n >= 3" in refusal("residual", 2, 0)
    assert accepts("residual", 3, 9)


def test_of_three_clients_the_rule_is_the_mean(aggregate):
    rows = torch.randn(3, 5000, generator=torch.Generator().manual_seed(1)) * torch.tensor([[1.0], [1.0], [1000.0]])
    result = aggregate("residual", rows, 1)
    torch.testing.assert_close(result.update, rows.mean(dim=0), rtol=1e-5, atol=1e-4)
    assert result.weights.tolist() == pytest.approx([1 / 3] * 3)
