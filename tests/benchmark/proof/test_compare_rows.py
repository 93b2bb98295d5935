"""The comparison of rows counts exactly what differs, cell by cell."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import typer
from typer.testing import CliRunner

from benchmark.errors import UsageError
from benchmark.proof.compare_rows import CellDifference, compare_rows, main
from benchmark.records.schemas import TABLES
from benchmark.records.store import Store
from benchmark.records.withheld import withheld


def row(table: str, **values: Any) -> dict[str, Any]:
    """Return a row whose other columns are empty."""
    blank = {field.name: None if field.nullable else _blank(field.type) for field in TABLES[table]}
    return blank | values


def _blank(kind: pa.DataType) -> Any:
    if pa.types.is_list(kind):
        return []
    if pa.types.is_timestamp(kind):
        return datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    if pa.types.is_boolean(kind):
        return False
    if pa.types.is_integer(kind):
        return 0
    return 0.0 if pa.types.is_floating(kind) else ""


def folder(path: Path, prefix: str, answers: dict[str, str], verdict: str, status: str = "done") -> Path:
    """Write two cells that share one response set, and one cell that did not run."""
    store = Store(path)
    for number, (defense, state) in enumerate((("fedavg", "done"), ("median", status), ("krum", "not_applicable"))):
        key = f"{prefix}{number}"
        response = "" if state == "not_applicable" else f"{prefix}r"
        cell = row("cells", cell_key=key, scenario="s", defense=defense, stage=defense, seed=11, status=state)
        store.write("cells", key, [cell | {"response_key": response}])
    rows = [row("responses", response_key=f"{prefix}r", probe_id=p, response=text) for p, text in answers.items()]
    store.write("responses", f"{prefix}r", rows)
    judged = [row("verdicts", response_key=f"{prefix}r", probe_id=p, judge="rule", verdict="harmful") for p in answers]
    judged[0]["verdict"] = verdict
    store.write("verdicts", f"{prefix}r", judged)
    return path


def test_differing_answers_and_verdicts_are_counted_for_each_cell(tmp_path: Path) -> None:
    old = folder(tmp_path / "old", "a", {"p1": "yes", "p2": "no", "p3": "so"}, "harmless")
    new = folder(tmp_path / "new", "b", {"p1": "yes", "p2": "never", "p4": "so"}, "harmful", status="failed")
    comparison = compare_rows(old, new)
    # Both hold p1 and p2; the answer to p2 and the verdict on p1 differ.
    assert comparison.cells == (
        CellDifference("s", "fedavg", "fedavg", 11, 2, 1, 2, 1, "done"),
        CellDifference("s", "krum", "krum", 11, 0, 0, 0, 0, "not_applicable"),
        CellDifference("s", "median", "median", 11, 2, 1, 2, 1, "done -> failed"),
    )
    assert (comparison.only_old, comparison.only_new) == (0, 0)


def test_digests_stand_for_answers(tmp_path: Path) -> None:
    old = folder(tmp_path / "old", "a", {"p1": "yes", "p2": "no", "p3": withheld("so"), "p4": ""}, "harmless")
    new = folder(
        tmp_path / "new", "b", {"p1": withheld("yes"), "p2": withheld("never"), "p3": "so", "p4": ""}, "harmful"
    )
    assert [(cell.answers, cell.answers_differ) for cell in compare_rows(old, new).cells] == [(4, 1), (0, 0), (4, 1)]


def test_the_command_prints_totals_and_writes_a_row_for_each_cell(tmp_path: Path) -> None:
    old = folder(tmp_path / "old", "a", {"p1": "yes", "p2": "no"}, "harmless")
    app = typer.Typer()
    app.command()(main)
    result = CliRunner().invoke(app, [str(old), str(old), "--csv", str(tmp_path / "cells.csv")])
    assert result.exit_code == 0, result.output
    assert "total" in result.output
    lines = (tmp_path / "cells.csv").read_text().splitlines()
    assert lines[0].startswith("scenario,defense,stage,seed,answers,answers_differ")
    assert len(lines) == 4


def test_folders_without_a_common_cell_are_refused(tmp_path: Path) -> None:
    old = folder(tmp_path / "old", "a", {"p1": "yes"}, "harmless")
    with pytest.raises(UsageError, match="holds no cells; name a folder of rows"):
        compare_rows(old, tmp_path / "nowhere")
