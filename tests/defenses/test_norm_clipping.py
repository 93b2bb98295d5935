"""Norm clipping: updates longer than the median norm are shortened to that norm, then averaged."""

from __future__ import annotations

import pytest
import torch

from .rounds import LARGEST, accepts, identity


def test_the_first_set_by_hand(aggregate, first_set):
    rows = torch.tensor(first_set, dtype=torch.float64)
    norms = rows.norm(dim=1)
    bound = sorted(norms.tolist())[3]
    expected = (rows * (bound / norms).clamp(max=1)[:, None]).mean(dim=0)
    assert aggregate("norm_clipping", first_set).update.tolist() == pytest.approx(expected.tolist(), abs=1e-6)


def test_the_direction_of_a_huge_update_is_kept(aggregate):
    result = aggregate("norm_clipping", [[3.0, 0.0], [0.0, 3.0], [-LARGEST, -LARGEST]])
    length = 3 / 2**0.5
    assert result.update.tolist() == pytest.approx([(3 - length) / 3] * 2, rel=1e-5)


def test_one_update_is_enough():
    assert accepts("norm_clipping", 1, 9)


@pytest.mark.parametrize(("participants", "malicious", "other"), [(1, 0, "fedavg"), (2, 0, None)])
def test_identities_are_named(participants, malicious, other):
    assert identity("norm_clipping", participants, malicious) == other
