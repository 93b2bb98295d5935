"""Krum as the seed paper's released code runs it: plain distances, and the mean of the winner's n - f nearest."""

from __future__ import annotations

import math

import numpy as np
import pytest

from .rounds import identity, refusal, rounds_with_outliers


def plain_krum(rows, f):
    distances = [[math.dist(x, y) for y in rows] for x in rows]
    count = len(rows) - f
    winner = min(range(len(rows)), key=lambda i: (sum(sorted(distances[i])[:count]), i))
    near = sorted(range(len(rows)), key=lambda j: (distances[winner][j], j))[:count]
    return rows[near].mean(axis=0)


@pytest.mark.parametrize("participants", [3, 4, 7, 10])
def test_equals_plain_loops(aggregate, participants):
    for f, rows in rounds_with_outliers(participants):
        result = aggregate("krum_fedllm_attack", rows.tolist(), f)
        expected = plain_krum(rows.numpy().astype(np.float64), f)
        np.testing.assert_allclose(result.update.numpy(), expected, rtol=2e-5, atol=3e-6)


def test_the_published_vectors(aggregate, first_set, second_set):
    """The vectors were worked in float64 from the definition."""
    first = aggregate("krum_fedllm_attack", first_set, 1).update.tolist()
    assert first == pytest.approx([1.166667, 0.833333, 2.0], abs=6e-6)
    second = aggregate("krum_fedllm_attack", second_set, 2).update.tolist()
    assert second == pytest.approx([0.35759, 0.31737, 0.264, 0.23789], abs=6e-6)


def test_the_closest_pair_of_three_is_averaged(aggregate):
    result = aggregate("krum_fedllm_attack", [[0.0, 0.0], [3.0, 4.0], [3.0, 5.0]], 1)
    assert result.update.tolist() == [3.0, 4.5]
    assert result.weights.tolist() == [0, 0.5, 0.5]


def test_plain_distances_count(aggregate):
    """Squared, one neighbour at 10 outweighs a square of side 4 (100 against 64); plainly it does not (10 to 13.7)."""
    star = [[0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [10.0, 0.0]]
    square = [[100.0, 0.0], [104.0, 0.0], [100.0, 4.0], [104.0, 4.0]]
    sums = {
        power: [min(sum(sorted(math.dist(x, y) ** power for y in group)) for x in group) for group in (star, square)]
        for power in (1, 2)
    }
    assert sums[1][0] < sums[1][1]
    assert sums[2][0] > sums[2][1]
    result = aggregate("krum_fedllm_attack", star + square, 4)
    assert result.weights.tolist() == [0.25] * 4 + [0] * 4
    assert result.update.tolist() == [2.5, 0.0]


def test_needs_more_than_f_updates():
    assert "n > f" in refusal("krum_fedllm_attack", 3, 3)


@pytest.mark.parametrize(("participants", "malicious", "other"), [(3, 0, "trimmed_mean"), (3, 1, None)])
def test_identities_are_named(participants, malicious, other):
    assert identity("krum_fedllm_attack", participants, malicious) == other
