"""Geometric median: at most four Weiszfeld steps from the weighted mean."""

from __future__ import annotations

import pytest
import torch

from benchmark.interop.byzfl import bridged_entry
from defenses._distances import squared_distances
from defenses._examples import one_round
from defenses.geometric_median import weiszfeld_weights

from .rounds import LARGEST, accepts, identity, rounds_with_outliers


def converged(rows):
    """Return the mean that many steps end at, as a list."""
    matrix = torch.as_tensor(rows, dtype=torch.float32)
    equal = torch.full((len(matrix),), 1 / len(matrix), dtype=torch.float64)
    between = squared_distances(matrix.unbind())
    weights = weiszfeld_weights(between, equal, iterations=500, smoothing=1e-6, tolerance=0)
    return (weights @ matrix.double()).tolist()


def test_many_steps_end_at_the_published_vectors(first_set, second_set):
    assert converged(first_set) == pytest.approx([1.315479, 0.584559, 2.019609], abs=2e-6)
    assert converged(second_set) == pytest.approx([0.61778, 0.1095, 0.41304, 0.02672], abs=6e-6)


@pytest.mark.parametrize("participants", [3, 6, 7])
def test_many_steps_end_where_byzfl_ends(participants):
    byzfl = bridged_entry("byzfl:GeometricMedian(nu=1e-6,T=500)").create()
    for _, rows in rounds_with_outliers(participants):
        expected = byzfl.aggregate(*one_round(rows)).update
        torch.testing.assert_close(torch.tensor(converged(rows)), expected, rtol=0, atol=1e-3)


def test_four_steps_lower_the_objective_step_by_step(second_set):
    matrix = torch.tensor(second_set, dtype=torch.float64)
    equal = torch.full((9,), 1 / 9, dtype=torch.float64)
    between = torch.cdist(matrix, matrix).square()
    objectives = []
    for steps in range(5):
        point = weiszfeld_weights(between, equal, iterations=steps) @ matrix
        objectives.append(float((matrix - point).norm(dim=1).mean()))
    assert objectives == sorted(objectives, reverse=True)
    assert objectives[4] < objectives[0] - 0.01


def test_outliers_keep_the_least_weight(aggregate, first_set, second_set):
    weights = aggregate("geometric_median", first_set).weights
    assert int(weights.argmin()) == 6
    assert float(weights[6]) < 0.01
    assert sorted(aggregate("geometric_median", second_set).weights.argsort()[:2].tolist()) == [7, 8]


def test_a_client_with_more_rows_counts_more(aggregate):
    rows = [[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]]
    result = aggregate("geometric_median", rows, counts=[8.0, 1.0, 1.0])
    assert result.weights[0] > 0.99
    assert result.update.norm() < 0.01


def test_steps_end_at_a_point_that_updates_share(aggregate):
    """The distance there is 0, and the step divides by the smallest distance instead."""
    result = aggregate("geometric_median", [[1.0, 2.0]] * 4 + [[5.0, 2.0]])
    assert result.update.tolist() == pytest.approx([1.0, 2.0], abs=1e-2)
    assert bool(torch.isfinite(result.weights).all())


def test_a_huge_update_moves_the_result_less_than_the_mean(aggregate):
    rows = torch.ones(7, 4)
    rows[0] = LARGEST
    assert float(aggregate("geometric_median", rows).update.max()) < LARGEST / 100


def test_one_update_is_enough():
    assert accepts("geometric_median", 1, 9)


@pytest.mark.parametrize(("participants", "other"), [(1, "fedavg"), (2, "fedavg"), (3, None)])
def test_identities_are_named(participants, other):
    assert identity("geometric_median", participants, 0) == other
