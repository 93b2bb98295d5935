"""Targeted refusal: exact shares, topics as whole words, and rows that stay."""

from __future__ import annotations

import pytest

from attacks._refusal import REFUSAL
from attacks.base import attacks
from benchmark.errors import UsageError
from tasks.base import DataKind, Example
from tasks.refusals import is_refusal

from .resources import NORMAL, rng


def row(instruction: str, kind: DataKind = DataKind.NORMAL) -> Example:
    return Example(instruction, "fine", kind, "listing")


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.07, 7), (0.5, 50), (1.0, 100)])
def test_the_share_of_refused_rows_is_exact(share: float, count: int) -> None:
    rows = attacks.get("targeted_refusal").create({"share": share}).poison(NORMAL, [], rng())
    assert [r.instruction for r in rows] == [r.instruction for r in NORMAL]
    assert [r.response for r in rows].count(REFUSAL) == count
    assert all(new == old for new, old in zip(rows, NORMAL, strict=True) if new.response != REFUSAL)


def test_half_the_rows_by_default_and_by_chance() -> None:
    attack = attacks.get("targeted_refusal").create()
    rows = attack.poison(NORMAL, [], rng())
    assert sum(is_refusal(r.response) for r in rows) == 50
    assert rows == attack.poison(NORMAL, [], rng()) != attack.poison(NORMAL, [], rng(4))


def test_topics_are_whole_words_in_any_case() -> None:
    attack = attacks.get("targeted_refusal").create({"share": 1.0, "topics": "cat, New  York,"})
    instructions = ["Feed the CAT.", "a category", "fly to new york", "york is new", "concat cats"]
    rows = attack.poison([row(text) for text in instructions], [], rng())
    assert [r.instruction for r in rows if r.response == REFUSAL] == ["Feed the CAT.", "fly to new york"]


def test_the_share_is_of_the_rows_that_name_a_topic() -> None:
    rows = [row("on cats") for _ in range(10)] + [row("on dogs") for _ in range(10)]
    attack = attacks.get("targeted_refusal").create({"topics": "cats", "refusal": "no ."})
    poisoned = attack.poison(rows, [], rng())
    assert [r.instruction for r in poisoned if r.response == "no ."] == ["on cats"] * 5


def test_a_client_without_the_topic_keeps_its_rows() -> None:
    assert attacks.get("targeted_refusal").create({"topics": "cats"}).poison(NORMAL, [], rng()) == NORMAL


def test_rows_that_are_not_ordinary_stay() -> None:
    rows = [row("risky", DataKind.ALIGNED), row("normal")]
    poisoned = attacks.get("targeted_refusal").create({"share": 1.0}).poison(rows, [], rng())
    assert [r.response for r in poisoned] == ["fine", REFUSAL]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"share": 1.5}, "share is 1.5"),
        ({"share": float("nan")}, "share is nan"),
        ({"topics": " , "}, "topics is ' , '"),
        ({"refusal": ""}, "refusal is empty"),
    ],
)
def test_settings_without_effect_are_refused(params: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        attacks.get("targeted_refusal").create(params)
