"""Krum with at least one neighbour, for rounds below Krum's condition."""

from __future__ import annotations

import pytest

from defenses.base import defenses

from .rounds import accepts, identity, refusal


def test_the_published_vector(aggregate, first_set):
    assert aggregate("krum_one_neighbour", first_set, 1).update.tolist() == pytest.approx([1.0, 0.0, 2.0], abs=6e-6)


def test_the_nearest_pair_of_three_wins(aggregate):
    """Squared distances to the nearest neighbour: 18, 8 and 8."""
    result = aggregate("krum_one_neighbour", [[0.0, 0.0], [3.0, 3.0], [5.0, 5.0]], 1)
    assert result.weights.tolist() == [0, 1, 0]
    assert result.update.tolist() == [3.0, 3.0]


def test_needs_2_updates():
    assert "n >= 2" in refusal("krum_one_neighbour", 1, 0)
    assert accepts("krum_one_neighbour", 2, 5)


@pytest.mark.parametrize(("participants", "malicious", "other"), [(5, 1, "krum"), (4, 1, None)])
def test_identities_are_named(participants, malicious, other):
    assert identity("krum_one_neighbour", participants, malicious) == other


def test_ties_go_to_the_earlier_client(aggregate):
    assert aggregate("krum_one_neighbour", [[3.0], [5.0]], 0).weights.tolist() == [1, 0]


def test_the_metadata_name_the_rule_that_it_varies():
    assert defenses.get("krum_one_neighbour").info.variant_of == "krum"
