"""A cell whose row was changed is refused, because its key does not follow from the changed row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from benchmark.errors import FedSafetyError
from benchmark.records.identity import COVERED, cell_key
from benchmark.records.schemas import TABLES
from leaderboard.rows.rows import load_rows

from ...leaderboard.synthetic import cell_row, write_table

CHANGES: dict[str, Any] = {
    "suite": "paper",
    "suite_version": "2",
    "primary_judge": "rule",
    "scenario": "blended",
    "scenario_version": "2",
    "twin": "clean_dirichlet",
    "defense": "krum",
    "stage": "krum",
    "ranked": False,
    "seed": 12,
    "status": "not_applicable",
    "reason": "krum needs n >= 9",
    "flags": ["degenerate: equals median"],
    "response_key": "0" * 32,
}


def written(root: Path, *rows: dict[str, Any]) -> Path:
    write_table(root / "cells", pa.Table.from_pylist(list(rows), schema=TABLES["cells"]))
    return root


def test_every_covered_column_has_a_change() -> None:
    assert CHANGES.keys() == set(COVERED)


@pytest.mark.parametrize("column", [name for name in COVERED if name not in ("status", "reason")])
def test_a_changed_column_gives_another_key(tmp_path: Path, column: str) -> None:
    row = cell_row() | {column: CHANGES[column]}
    with pytest.raises(FedSafetyError, match=r"has the key '[0-9a-f]{32}', but the values of its row give") as e:
        load_rows([written(tmp_path, row)])
    assert str(tmp_path / "cells" / "000.parquet") in str(e.value)
    assert "delete the file and make its rows again" in str(e.value)


def test_the_reason_is_covered_where_the_cell_does_not_apply() -> None:
    row = cell_row()
    failed = row | {"status": "failed", "reason": "the disk is full"}
    foreign = row | {"status": "not_applicable", "reason": CHANGES["reason"]}
    assert cell_key(failed) == cell_key(row)
    assert cell_key(foreign) not in (cell_key(row), cell_key(foreign | {"reason": "krum needs n >= 11"}))


@pytest.mark.parametrize(
    ("column", "value"),
    [("protocol_version", "1.0"), ("clients", 9), ("malicious", 0), ("start_digest", "f" * 32), ("attack", "none")],
)
def test_the_cells_of_one_training_have_one_protocol_and_shape(tmp_path: Path, column: str, value: object) -> None:
    rows = [cell_row(defense=defense, training_key="1" * 32) for defense in ("fedavg", "fedavg+posthoc_self")]
    load_rows([written(tmp_path / "same", *rows)])
    rows[1][column] = value
    with pytest.raises(FedSafetyError, match=rf"rest on one training, but have the values .* of {column}; delete"):
        load_rows([written(tmp_path / "changed", *rows)])
