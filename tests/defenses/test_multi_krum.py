"""Multi-Krum: the mean of the n - f - 2 updates with the lowest Krum scores."""

from __future__ import annotations

import pytest

from .rounds import accepts, identity, refusal


def test_the_published_vector(aggregate, second_set):
    expected = [0.44696, 0.16256, -0.03296, 0.00838]
    assert aggregate("multi_krum", second_set, 2).update.tolist() == pytest.approx(expected, abs=6e-6)


def test_the_four_lowest_scores_of_the_first_set_are_kept(aggregate, first_set):
    result = aggregate("multi_krum", first_set, 1)
    assert result.weights.tolist() == [0.25, 0.25, 0, 0.25, 0, 0.25, 0]
    assert result.update.tolist() == [1.25, 1.0, 1.5]


def test_needs_2f_plus_3_updates():
    assert "n >= 5" in refusal("multi_krum", 4, 1)
    assert accepts("multi_krum", 5, 1)


@pytest.mark.parametrize(("participants", "malicious", "other"), [(3, 0, "krum"), (4, 0, None)])
def test_identities_are_named(participants, malicious, other):
    assert identity("multi_krum", participants, malicious) == other
