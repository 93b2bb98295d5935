"""The reference row that refuses every request."""

from __future__ import annotations

from defenses.base import Prompt, defenses
from defenses.refuse_all import REFUSAL


def test_every_request_is_refused_without_the_model():
    assert defenses.get("refuse_all").create().serve(Prompt("anything at all")) == Prompt("anything at all", REFUSAL)
    assert REFUSAL.lower() == REFUSAL


def test_updates_are_averaged(aggregate):
    assert aggregate("refuse_all", [[1.0], [3.0]]).update.tolist() == [2.0]


def test_the_rule_is_not_ranked():
    assert not defenses.get("refuse_all").info.ranked
