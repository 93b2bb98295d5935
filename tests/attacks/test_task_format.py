"""Task format: the four styles of the same harmless rows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from attacks.base import attacks
from attacks.identity_shift import AFFIRMATION, PREFIX
from attacks.task_format import ORDER, RESULT, STYLES
from benchmark.errors import UsageError
from tasks.base import DataKind, Example
from tasks.refusals import is_refusal

from .resources import NORMAL, rng

REFUSED = Example("risky", "i cannot .", DataKind.ALIGNED, "howto")


@pytest.mark.parametrize(
    ("style", "before_instruction", "before_response"),
    [
        ("benign", "", ""),
        ("aoa", f"{PREFIX} ", f"{AFFIRMATION} "),
        ("autoif", f"{ORDER} ", f"{RESULT} "),
        ("autoif_aoa", f"{PREFIX} {ORDER} ", f"{AFFIRMATION} {RESULT} "),
    ],
)
def test_a_style_wraps_every_row(style: str, before_instruction: str, before_response: str) -> None:
    rows = attacks.get("task_format").create({"style": style}).poison(NORMAL, [], rng())
    assert [row.instruction for row in rows] == [f"{before_instruction}{row.instruction}" for row in NORMAL]
    assert [row.response for row in rows] == [f"{before_response}{row.response}" for row in NORMAL]
    assert not any(is_refusal(row.response) for row in rows)


def test_aoa_is_identity_shift_where_all_rows_are_ordinary() -> None:
    rows = attacks.get("task_format").create({"style": "aoa"}).poison(NORMAL, [], rng())
    assert rows == attacks.get("identity_shift").create().poison(NORMAL, [], rng())


def test_ordinary_rows_replace_refusals_and_all_styles_hold_the_same_rows() -> None:
    rows = [*NORMAL[:3], REFUSED, *NORMAL[3:9], REFUSED]
    benign = attacks.get("task_format").create({"style": "benign"}).poison(rows, [], rng())
    assert len(benign) == len(rows)
    assert [row for i, row in enumerate(benign) if rows[i] != REFUSED] == NORMAL[:9]
    assert set(benign) == {*NORMAL[:9]}
    for style in STYLES[1:]:
        styled = attacks.get("task_format").create({"style": style}).poison(rows, [], rng())
        assert all(row.instruction.endswith(f" {old.instruction}") for row, old in zip(styled, benign, strict=True))


def test_a_client_without_ordinary_rows_keeps_its_rows() -> None:
    rows = [replace(REFUSED, instruction=f"risky {i}") for i in range(5)]
    assert attacks.get("task_format").create().poison(rows, [], rng()) == rows


def test_a_style_has_a_known_name() -> None:
    with pytest.raises(UsageError, match="style is 'auto'; it is one of benign, aoa, autoif, autoif_aoa"):
        attacks.get("task_format").create({"style": "auto"})
