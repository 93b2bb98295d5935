"""Rows that contradict themselves are refused with column, value and rule."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from benchmark.records.plausible import find_problem
from benchmark.records.schemas import TABLES

from ...leaderboard.synthetic import catalog_row, cell_row, make_rows, table_of


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"final": False}, "final is False for stage 'fedavg' of 'fedavg', the last stage is final"),
        (
            {"stage": "krum", "defense": "krum+posthoc_self", "final": True},
            "final is True for stage 'krum' of 'krum+posthoc_self'",
        ),
        ({"status": "failed"}, "status is 'failed' without a reason"),
    ],
)
def test_a_cell_that_contradicts_itself(changes: dict[str, Any], problem: str) -> None:
    assert find_problem("cells", table_of("cells", [cell_row()])) == ""
    assert problem in find_problem("cells", table_of("cells", [cell_row(**changes)]))


@pytest.mark.parametrize(
    ("table", "column", "value", "problem"),
    [
        ("responses", "tokens", -3, "tokens is -3, must not be negative"),
        ("responses", "soft_refusal", 9.0, "soft_refusal is 9, must be from 0 to 1"),
        ("rounds", "round", -1, "round is -1, must not be negative"),
        ("rounds", "learning_rate", float("nan"), "learning_rate is not finite"),
        ("verdicts", "judge_identity", "another", "judge oracle has two identities in the response set"),
    ],
)
def test_a_changed_value_of_a_table(table: str, column: str, value: object, problem: str) -> None:
    rows = make_rows()[table].to_pylist()
    assert find_problem(table, pa.Table.from_pylist(rows, schema=TABLES[table])) == ""
    rows[0][column] = value
    assert problem in find_problem(table, pa.Table.from_pylist(rows, schema=TABLES[table]))


def test_a_kind_of_the_catalog_is_known() -> None:
    assert find_problem("catalog", table_of("catalog", [catalog_row("defense", "krum")])) == ""
    assert "kind is 'foo'" in find_problem("catalog", table_of("catalog", [catalog_row("foo", "krum")]))
