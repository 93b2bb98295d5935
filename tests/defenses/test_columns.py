"""Sums and ranks over clients, column by column: sorting networks and weighted sums in float32."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from defenses._columns import _compile, mean_of_ranks, weighted_sum

from .rounds import LARGEST


@settings(deadline=None, max_examples=60)
@given(data=st.data(), participants=st.integers(1, 17))
def test_the_pruned_network_finds_any_ranks(data, participants):
    ranks = sorted(data.draw(st.sets(st.integers(0, participants - 1), min_size=1)))
    values = data.draw(st.lists(st.integers(0, 9), min_size=participants, max_size=participants))
    matrix = torch.tensor(values, dtype=torch.float32)[:, None]
    expected = sum(sorted(values)[rank] for rank in ranks) / len(ranks)
    assert mean_of_ranks(matrix, ranks).item() == pytest.approx(expected, abs=1e-6)


def test_the_zero_one_principle_holds_for_every_network_up_to_ten_rows():
    """A comparator network that sorts all sequences of zeros and ones sorts everything."""
    for participants in range(1, 11):
        codes = torch.arange(2**participants)
        matrix = torch.stack([(codes >> bit & 1).float() for bit in range(participants)])
        ordered = matrix.sort(dim=0).values
        for rank in range(participants):
            assert torch.equal(mean_of_ranks(matrix, [rank]), ordered[rank])


def test_pruning_saves_work():
    whole, median = _compile(10, tuple(range(10))), _compile(10, (4, 5))
    assert len(median.steps) < len(whole.steps)
    assert median.scratch <= 11


def test_weighted_sums_near_the_largest_float_stay_finite():
    equal_rows = torch.full((10, 3), LARGEST)
    assert weighted_sum(equal_rows, torch.full((10,), 0.1, dtype=torch.float64)).tolist() == [LARGEST] * 3


def test_weights_too_small_for_float32_still_count():
    weights = torch.tensor([1e-44, 0.5], dtype=torch.float64)
    assert weighted_sum(torch.tensor([[1e30], [0.0]]), weights).item() == pytest.approx(1e-14, rel=1e-6, abs=0)
