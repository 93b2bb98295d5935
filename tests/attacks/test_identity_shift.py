"""Identity shift: ordinary rows with an address and a promise."""

from __future__ import annotations

import pytest

from attacks.base import attacks
from attacks.identity_shift import AFFIRMATION, PREFIX
from benchmark.errors import UsageError

from .resources import NORMAL, rng


def test_every_row_carries_the_address_and_the_promise() -> None:
    rows = attacks.get("identity_shift").create().poison(NORMAL, [], rng())
    assert [row.instruction for row in rows] == [f"{PREFIX} {row.instruction}" for row in NORMAL]
    assert [row.response for row in rows] == [f"{AFFIRMATION} {row.response}" for row in NORMAL]
    assert [(row.kind, row.task) for row in rows] == [(row.kind, row.task) for row in NORMAL]


def test_a_share_leaves_the_other_rows_as_they_are() -> None:
    attack = attacks.get("identity_shift").create({"share": 0.25, "prefix": "Agent:", "affirmation": "Yes."})
    rows = attack.poison(NORMAL, [], rng())
    shifted = [(new, old) for new, old in zip(rows, NORMAL, strict=True) if new != old]
    assert len(shifted) == 25
    assert all(new.instruction == f"Agent: {old.instruction}" for new, old in shifted)
    assert rows != attack.poison(NORMAL, [], rng(4)), "the share is drawn"


@pytest.mark.parametrize(
    ("params", "message"),
    [({"share": 1.5}, "share is 1.5"), ({"prefix": " "}, "prefix is empty"), ({"affirmation": ""}, "affirmation is")],
)
def test_settings_without_effect_are_refused(params: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        attacks.get("identity_shift").create(params)
