"""The reference row that averages the honest clients: by hand, without honest clients, without the truth."""

from __future__ import annotations

import pytest

from benchmark.errors import FedSafetyError
from defenses.base import Knowledge, defenses

ROWS, IDS = [[1.0], [99.0], [5.0]], ["a", "b", "c"]


def test_the_honest_clients_are_averaged(aggregate):
    result = aggregate("attackers_removed", ROWS, ids=IDS, malicious_ids=frozenset({"b", "absent"}))
    assert result.update.tolist() == [3.0]


def test_without_honest_clients_the_update_is_zero(aggregate):
    result = aggregate("attackers_removed", ROWS, ids=IDS, malicious_ids=frozenset(IDS))
    assert result.update.tolist() == [0.0]
    assert result.weights.tolist() == [0.0, 0.0, 0.0]


def test_without_the_truth_the_round_fails(aggregate):
    with pytest.raises(FedSafetyError, match="malicious_ids = None"):
        aggregate("attackers_removed", ROWS)


def test_the_rule_knows_the_truth_and_is_not_ranked():
    info = defenses.get("attackers_removed").info
    assert info.knowledge is Knowledge.TRUTH
    assert not info.ranked
