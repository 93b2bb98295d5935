"""Nearest-neighbour mixing: the trimmed mean of means of the n - f nearest updates."""

from __future__ import annotations

import importlib
import sys

import pytest
import torch

from benchmark.interop.byzfl import import_aggregators
from defenses._distances import squared_distances
from defenses.nearest_neighbour_mixing import _mixing

from .rounds import accepts, identity, refusal, rounds_with_outliers


def test_the_published_vector(aggregate, first_set):
    expected = [1.166667, 0.833333, 2.0]
    assert aggregate("nearest_neighbour_mixing", first_set, 1).update.tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("participants", [3, 5, 8, 10])
def test_equals_byzfl(aggregate, participants):
    import_aggregators()
    mixing = importlib.import_module("byzfl.aggregators.preaggregators").NNM
    trimmed = sys.modules["byzfl.aggregators.aggregators"].TrMean
    for malicious, rows in rounds_with_outliers(participants):
        if 2 * malicious >= participants:
            continue
        expected = trimmed(f=malicious)(mixing(f=malicious)(rows))
        result = aggregate("nearest_neighbour_mixing", rows, malicious).update
        torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)


def test_each_row_of_the_mixing_counts_itself_first():
    """Four equal updates are equally near to each other; each counts itself and then the earlier ids."""
    mixing = _mixing(squared_distances(torch.zeros(4, 3).unbind()), 2)
    assert mixing.tolist() == [[0.5, 0.5, 0, 0], [0.5, 0.5, 0, 0], [0.5, 0, 0.5, 0], [0.5, 0, 0, 0.5]]


def test_colluders_that_are_a_minority_barely_move_the_result(aggregate, second_set):
    honest = torch.tensor(second_set)[:7].mean(dim=0)
    result = aggregate("nearest_neighbour_mixing", second_set, 2).update
    plain = torch.tensor(second_set).mean(dim=0)
    assert float((result - honest).norm()) < float((plain - honest).norm())


def test_needs_2f_plus_1_updates():
    assert "n >= 3" in refusal("nearest_neighbour_mixing", 2, 1)
    assert accepts("nearest_neighbour_mixing", 3, 1)


@pytest.mark.parametrize(
    ("participants", "malicious", "other"),
    [(10, 0, "fedavg"), (3, 1, "krum_fedllm_attack"), (5, 1, None), (5, 2, None)],
)
def test_identities_are_named(participants, malicious, other):
    assert identity("nearest_neighbour_mixing", participants, malicious) == other
