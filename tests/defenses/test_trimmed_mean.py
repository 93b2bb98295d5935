"""Coordinate-wise mean without the f smallest and the f largest values."""

from __future__ import annotations

import pytest

from .rounds import accepts, identity, refusal


def test_the_published_vectors(aggregate, first_set, second_set):
    assert aggregate("trimmed_mean", first_set, 1).update.tolist() == pytest.approx([1.4, 0.6, 2.2], abs=6e-6)
    expected = [0.64576, 0.01002, 0.55984, -0.11216]
    assert aggregate("trimmed_mean", second_set, 2).update.tolist() == pytest.approx(expected, abs=6e-6)


def test_needs_2f_plus_1_updates():
    assert "2f + 1" in refusal("trimmed_mean", 4, 2)
    assert accepts("trimmed_mean", 5, 2)


@pytest.mark.parametrize(
    ("participants", "malicious", "other"),
    [(3, 1, "median"), (4, 1, "median"), (5, 1, None), (7, 3, "median"), (1, 0, "median"), (10, 0, "fedavg")],
)
def test_identities_are_named(participants, malicious, other):
    assert identity("trimmed_mean", participants, malicious) == other
