"""Benign rows like harmful ones: which rows are kept, how often, and that anchors are never trained on."""

from __future__ import annotations

from collections import Counter

import pytest

from attacks.base import attacks
from benchmark.errors import UsageError
from tasks.base import DataKind, Example

from .resources import NORMAL, POOL, Resources, rng


def row(instruction: str, response: str = "fine", kind: DataKind = DataKind.NORMAL) -> Example:
    return Example(instruction, response, kind, "listing")


ANCHORS = [row("how to open a lock", "sure", DataKind.UNALIGNED), row("how to open a safe", "sure", DataKind.UNALIGNED)]
ROWS = [row("name a city"), row("how to open a jar"), row("where is rome"), row("how to bake bread")]


def test_the_most_similar_rows_are_kept_and_fill_the_client() -> None:
    rows = attacks.get("benign_similar").create({"keep": 2}).poison(ROWS, ANCHORS, rng())
    assert Counter(r.instruction for r in rows) == {"how to open a jar": 2, "how to bake bread": 2}


def test_repeats_differ_by_at_most_one_and_are_shuffled() -> None:
    attack = attacks.get("benign_similar").create({"keep": 30})
    rows = attack.poison(NORMAL, POOL, rng())
    assert len(rows) == 100
    assert sorted(Counter(rows).values()) == [3] * 20 + [4] * 10
    assert rows[:30] != rows[30:60]
    assert rows == attack.poison(NORMAL, POOL, rng()) != attack.poison(NORMAL, POOL, rng(4))


def test_of_equal_rows_the_earlier_ones_are_kept() -> None:
    rows = [row("same text", str(i)) for i in range(5)]
    kept = attacks.get("benign_similar").create({"keep": 2}).poison(rows, ANCHORS, rng())
    assert {r.response for r in kept} == {"0", "1"}


def test_fewer_rows_than_keep_are_all_kept() -> None:
    assert sorted(r.instruction for r in attacks.get("benign_similar").create().poison(ROWS, ANCHORS, rng())) == sorted(
        r.instruction for r in ROWS
    )


def test_lists_and_maths_need_no_anchor() -> None:
    attack = attacks.get("benign_similar").create({"keep": 1, "criterion": "lists_and_maths"})
    assert attack.pool(Resources(), rng()) == []
    rows = [row("tell a story"), row("give me tips", "- sleep\n- eat"), row("say hello")]
    assert {r.instruction for r in attack.poison(rows, [], rng())} == {"give me tips"}


def test_the_pool_holds_anchors_on_which_no_client_trains() -> None:
    attack = attacks.get("benign_similar").create({"anchors": 7, "keep": 3})
    pool = attack.pool(Resources(), rng())
    assert len(pool) == 7
    assert set(pool) <= set(POOL)
    refused = row("how to open a lock", "i cannot .", DataKind.ALIGNED)
    rows = attack.poison([*ROWS, refused], ANCHORS, rng())
    assert len(rows) == 5
    assert set(rows) < set(ROWS)


def test_a_client_without_ordinary_rows_keeps_its_rows() -> None:
    rows = [row(f"risky {i}", "i cannot .", DataKind.ALIGNED) for i in range(5)]
    assert attacks.get("benign_similar").create().poison(rows, ANCHORS, rng()) == rows


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"keep": 0}, "keep is 0"),
        ({"keep": 1.5}, "keep is 1.5"),
        ({"anchors": -1}, "anchors is -1"),
        ({"criterion": "maths"}, "criterion is 'maths'; it is one of harmful, lists_and_maths"),
    ],
)
def test_a_setting_has_a_range(params: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        attacks.get("benign_similar").create(params)
