"""Bulyan: repeated Krum, then the mean of the values that are closest to the median."""

from __future__ import annotations

import pytest
import torch

from defenses.bulyan import _mean_around_median

from .rounds import LARGEST, accepts, identity, refusal


def test_the_published_vector_of_repeated_krum(aggregate, second_set):
    expected = [0.0621, 0.01002, -0.05204, 0.00838]
    assert aggregate("bulyan", second_set, 1).update.tolist() == pytest.approx(expected, abs=6e-6)


def test_one_round_of_scores_would_choose_otherwise(aggregate, second_set):
    """Choosing all seven by one round of Krum's scores gives the other published vector."""
    one_shot = [0.02258, 0.66648, -0.05204, 0.24366]
    matrix = torch.tensor(second_set)
    assert _mean_around_median(matrix, [0, 1, 2, 3, 4, 5, 6], 5).tolist() == pytest.approx(one_shot, abs=6e-6)
    assert aggregate("bulyan", second_set, 1).weights[[4, 7]].tolist() == [0, 0]


def test_a_far_client_is_not_chosen(aggregate, first_set):
    result = aggregate("bulyan", first_set, 1)
    assert result.weights[6] == 0
    assert result.weights.sum() == pytest.approx(1)
    assert int((result.weights > 0).sum()) == 5
    assert bool((result.update.abs() <= 3).all())


def test_one_extreme_value_of_a_chosen_client_does_not_count(aggregate):
    """The client is near the others as a whole, and Krum may choose it; its first coordinate is far off."""
    rows = torch.randn(11, 500, generator=torch.Generator().manual_seed(3))
    rows[:, 0] = torch.linspace(-0.1, 0.1, 11)
    rows[4] *= 0.5
    rows[4, 0] = 8.0
    result = aggregate("bulyan", rows, 2)
    assert result.weights[4] > 0
    assert abs(float(result.update[0])) <= 0.1


@pytest.mark.parametrize("values", [[1.0, 2.0, 3.0, 5.0, 6.0], [6.0, 5.0, 3.0, 2.0, 1.0]])
@pytest.mark.parametrize("count", range(1, 6))
def test_the_closest_values_by_hand(values, count):
    """Around the median 3 the distances are 2, 1, 0, 2 and 3: the value 1 counts before the value 5."""
    wanted = {1: [3], 2: [3, 2], 3: [3, 2, 1], 4: [3, 2, 1, 5], 5: [3, 2, 1, 5, 6]}[count]
    matrix = torch.tensor(values)[:, None]
    assert float(_mean_around_median(matrix, [0, 1, 2, 3, 4], count)) == pytest.approx(sum(wanted) / count)


def test_the_largest_floats_stay_finite():
    matrix = torch.full((7, 3), LARGEST)
    assert torch.equal(_mean_around_median(matrix, list(range(7)), 5), matrix[0])


def test_of_two_that_are_nearest_to_each_other_the_one_nearer_to_the_rest_is_chosen(aggregate):
    """Both clients of a pair have the same score in the last steps, where only one neighbour counts."""
    line = [[0.0], [1.0], [2.0], [3.0], [4.0], [5.0], [40.0]]
    for rows in (line, line[::-1]):
        result = aggregate("bulyan", rows, 1)
        assert result.update.tolist() == [3.0]
        assert result.weights[rows.index([0.0])] == 0


def test_needs_4f_plus_3_updates():
    assert "n >= 7" in refusal("bulyan", 6, 1)
    assert "n >= 15" in refusal("bulyan", 10, 3)
    assert accepts("bulyan", 7, 1)
    assert accepts("bulyan", 11, 2)


@pytest.mark.parametrize(("participants", "malicious", "other"), [(3, 0, "fedavg"), (7, 1, None)])
def test_identities_are_named(participants, malicious, other):
    assert identity("bulyan", participants, malicious) == other
