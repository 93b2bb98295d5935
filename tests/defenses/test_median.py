"""Coordinate-wise median."""

from __future__ import annotations

import pytest

from .rounds import accepts, identity


def test_the_published_vectors(aggregate, first_set, second_set):
    assert aggregate("median", first_set, 1).update.tolist() == pytest.approx([1.0, 1.0, 2.0], abs=6e-6)
    expected = [0.8941, 0.0206, 0.8784, 0.0178]
    assert aggregate("median", second_set, 2).update.tolist() == pytest.approx(expected, abs=6e-6)


def test_an_even_number_of_values_gives_the_mean_of_the_middle_two(aggregate):
    result = aggregate("median", [[1.0, -8.0], [100.0, 4.0], [3.0, 2.0], [-50.0, 5.0]])
    assert result.update.tolist() == [2.0, 3.0]
    assert result.weights is None


def test_one_update_is_enough():
    assert accepts("median", 1, 9)


@pytest.mark.parametrize(("participants", "malicious", "other"), [(1, 0, "fedavg"), (2, 0, None)])
def test_identities_are_named(participants, malicious, other):
    assert identity("median", participants, malicious) == other
