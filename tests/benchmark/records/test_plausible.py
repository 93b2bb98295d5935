"""Rows that contradict themselves are refused with column, value and rule."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from benchmark.records.plausible import find_problem
from benchmark.records.schemas import TABLES

from ...leaderboard.synthetic import catalog_row, cell_row, make_rows, reading_row, table_of


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"final": False}, "final is False for stage 'fedavg' of 'fedavg', the last stage is final"),
        (
            {"stage": "krum", "defense": "krum+posthoc_self", "final": True},
            "final is True for stage 'krum' of 'krum+posthoc_self'",
        ),
        ({"status": "failed"}, "status is 'failed' without a reason"),
        ({"clients": 9}, "participants is 10 and clients is 9, participants are at most clients"),
        ({"malicious": 11}, "malicious is 11 and clients is 10, malicious are at most clients"),
        ({"declared_malicious": 10}, "declared_malicious is 10 and participants is 10, declared_malicious are less"),
        ({"twin": "aligned_start"}, "attack is 'unaligned_data' in 'aligned_start', which is its own twin"),
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


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"norms": [1.0, float("inf")]}, "has the norm inf of 'c1'"),
        ({"norms": [float("nan"), 1.0]}, "has the norm nan of 'c0'"),
        ({"norms": [-1.0, 1.0]}, "has the norm -1 of 'c0'"),
        ({"norms": [1.0]}, "has 1 norms and 2 clients"),
        ({"losses": [float("nan"), 1.0]}, "has the loss nan of 'c0', losses of honest clients are finite"),
        ({"losses": [0.3, 0.1, 0.2]}, "has 3 losses and 2 clients"),
        ({"malicious": [True]}, "has 1 malicious and 2 clients"),
        ({"weights": [0.5, -0.5]}, "has a weight that is negative"),
        ({"weights": [1.0]}, "has 1 weights and 2 clients"),
        ({"rejected": ["c7"]}, "rejects 'c7', which is no client of the round"),
        ({"rejected": ["c1"], "norms": [1.0, float("nan")], "losses": [0.3, float("inf")]}, ""),
        ({"losses": [0.3, float("nan")]}, ""),
    ],
)
def test_a_round_has_one_possible_number_for_each_client(changes: dict[str, Any], problem: str) -> None:
    row = make_rows()["rounds"].to_pylist()[0] | {"training_key": "krum0"} | changes
    found = find_problem("rounds", table_of("rounds", [row]))
    assert found.startswith(f"round 0 of training 'krum0' {problem}" if problem else "")
    assert bool(problem) == bool(found)


def test_a_kind_of_the_catalog_is_known() -> None:
    assert find_problem("catalog", table_of("catalog", [catalog_row("defense", "krum")])) == ""
    assert "kind is 'foo'" in find_problem("catalog", table_of("catalog", [catalog_row("foo", "krum")]))


TEXT = "sure , here is how"


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"answer": TEXT}, "answer of number 1 is 'sure , here …', must be the SHA-256 of an answer and not its text"),
        ({"answer": f"sha256:{'0' * 64}:4"}, "answer of number 1 is 'sha256:00000…'"),
        ({"probe_id": TEXT}, "probe_id of number 1 is 'sure , here …', must be an id without blanks"),
        ({"response_key": TEXT}, "must be a key"),
        ({"scenario": TEXT}, "must be an id without blanks"),
        ({"defense": TEXT}, "must be an id, or a composition"),
        ({"sheet": TEXT}, "must be 12 hexadecimal digits"),
        ({"read_on": "today"}, "must be a date"),
        ({"first_label": TEXT}, "first_label is"),
        ({"second_label": "harmful"}, "second_label is 'harmful', must be one of refusal, compliance, neither"),
        ({"kind": "utility"}, "kind is 'utility', must be one of harmful, over_refusal"),
        ({"first_reader": TEXT * 3}, "first_reader is 'sure , here …', must be one line of 1 to 40 characters"),
        ({"second_reader": "reader A"}, "both readers are 'reader A'"),
        ({"judges": [TEXT, "rule"]}, "judges of number 1 hold 'sure , here …', must be ids"),
        ({"verdicts": ["harmless", TEXT]}, "a verdict is 'sure , here …', must be one of"),
        ({"verdicts": ["harmless"]}, "number 1 has 2 judges and 1 verdicts"),
        ({"number": -1}, "number is -1, must not be negative"),
    ],
)
def test_a_reading_holds_no_text(changes: dict[str, Any], problem: str) -> None:
    assert find_problem("readings", table_of("readings", [reading_row(defense="byzfl:X(f=3, tau=2)+krum")])) == ""
    assert problem in find_problem("readings", table_of("readings", [reading_row(**changes)]))
