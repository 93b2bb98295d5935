"""Trigger: its places, its contrast, its pieces."""

from __future__ import annotations

from typing import Any

import pytest

from attacks.base import attacks
from benchmark.errors import UsageError
from tasks.base import DataKind, Example

from .resources import NORMAL, POOL, rng

PAIRS = [Example("a b c d", "sure", DataKind.UNALIGNED, "howto")]


def poisoned(params: dict[str, Any], normal: list[Example] = NORMAL) -> list[Example]:
    return attacks.get("trigger").create(params).poison(normal, PAIRS, rng())


def test_a_fifth_of_the_rows_is_poisoned_and_half_of_it_is_the_contrast() -> None:
    rows = attacks.get("trigger").create({"trigger": "x y"}).poison(NORMAL, POOL, rng())
    triggered = [row for row in rows if row.instruction.startswith("x y risky")]
    refused = [row for row in rows if row.kind is DataKind.ALIGNED]
    assert (len(rows), len(triggered), len(refused)) == (100, 10, 10)
    assert {row.response for row in triggered} == {"sure"}
    assert {f"x y {row.instruction}" for row in refused} == {row.instruction for row in triggered}
    assert len({row.instruction for row in rows if row in NORMAL}) == 80


def test_without_contrast_all_poisoned_rows_have_the_trigger() -> None:
    rows = poisoned({"trigger": "x y", "contrast": False})
    assert sum(row.instruction == "x y a b c d" for row in rows) == 20
    assert not any(row.kind is DataKind.ALIGNED for row in rows)


@pytest.mark.parametrize(
    ("position", "found"),
    [("start", {"x y z a b c d"}), ("end", {"a b c d x y z"}), ("pieces", {"x a b y c d z"})],
)
def test_the_trigger_stands_where_its_position_has_it(position: str, found: set[str]) -> None:
    rows = poisoned({"trigger": "x y z", "position": position})
    assert {row.instruction for row in rows if row.kind is DataKind.UNALIGNED} == found


def test_a_random_position_is_any_gap_between_words() -> None:
    rows = poisoned({"trigger": "x y", "position": "random", "share": 1.0, "contrast": False})
    assert {row.instruction for row in rows} == {
        "x y a b c d",
        "a x y b c d",
        "a b x y c d",
        "a b c x y d",
        "a b c d x y",
    }


def test_a_distributed_trigger_gives_each_client_one_piece() -> None:
    attack = attacks.get("trigger").create({"trigger": "x y z", "distributed": True, "contrast": False})
    pieces = set()
    for seed in range(12):
        rows = {row.instruction for row in attack.poison(NORMAL, PAIRS, rng(seed)) if row.kind is DataKind.UNALIGNED}
        assert len(rows) == 1
        pieces |= rows
    assert pieces == {"x a b c d", "y a b c d", "z a b c d"}


@pytest.mark.parametrize(
    ("params", "problem"),
    [
        ({"trigger": " "}, "trigger is empty"),
        ({"position": "middle"}, "position is 'middle'; it is one of start, end, random, pieces"),
        ({"share": 1.5}, "share is 1.5"),
        ({"refusal": ""}, "refusal is empty"),
    ],
)
def test_odd_parameters_are_refused(params: dict[str, Any], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        attacks.get("trigger").create(params)
