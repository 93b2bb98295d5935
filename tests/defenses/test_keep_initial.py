"""The reference row that discards what clients send."""

from __future__ import annotations

from defenses.base import defenses


def test_the_update_and_all_weights_are_zero(aggregate, first_set):
    result = aggregate("keep_initial", first_set, 1)
    assert result.update.tolist() == [0.0, 0.0, 0.0]
    assert result.weights.tolist() == [0.0] * 7


def test_clients_are_not_trained_and_the_rule_is_not_ranked():
    entry = defenses.get("keep_initial")
    assert not entry.create().uses_updates
    assert not entry.info.ranked
