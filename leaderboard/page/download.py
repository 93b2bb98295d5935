"""The shown cells as one flat table, one row a cell with its scores, for those who go on computing elsewhere."""

from __future__ import annotations

import csv
import io
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from leaderboard.ranking.board import Board
from leaderboard.scores.cells import CellScore

_TEXT = (
    "suite",
    "suite_version",
    "protocol_version",
    "scenario",
    "scenario_version",
    "twin",
    "attack",
    "defense",
    "stage",
    "origin",
    "state",
    "reason",
    "flags",
    "knowledge",
    "start_model",
    "primary_judge",
    "generator",
    "cell_key",
    "response_key",
)
_WHOLE = ("seed", "clients", "participants", "malicious", "declared_malicious", "rounds", "upload_bytes")
_FLAGS = ("final", "ranked")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def cell_table(board: Board) -> pa.Table:
    """Return the cells of ``board``, ordered by scenario, defense, stage and seed.

    Columns: what the cell is (text, numbers, flags; where something was submitted, the rung of its entry), then one
    column a metric of :class:`leaderboard.scores.cells.CellScore`, shares in 0..1, null where it was not measured.
    """
    rows = [_flat(cell) for cell in board.cells]
    rungs = {entry.id: entry.rung.name for entry in board.entries if entry.rung}
    for row in rows if board.has_submissions else ():
        row["rung"] = rungs.get(row["defense"])
    metrics = sorted({name for cell in board.cells for name in cell.metrics} - set(_WHOLE))
    fields = [(name, pa.string()) for name in _TEXT]
    fields += [("rung", pa.string())] if board.has_submissions else []
    fields += [(name, pa.int64()) for name in _WHOLE]
    fields += [(name, pa.bool_()) for name in _FLAGS]
    fields += [(name, pa.float64()) for name in metrics]
    return pa.Table.from_pylist(rows, schema=pa.schema(fields))


def csv_bytes(table: pa.Table) -> bytes:
    """Return ``table`` as CSV with a heading.

    Text that a spreadsheet would take for a formula is preceded by an apostrophe.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(table.column_names)
    columns = [
        [_harmless(text) for text in column.to_pylist()] if pa.types.is_string(column.type) else column.to_pylist()
        for column in table.columns
    ]
    writer.writerows(zip(*columns, strict=True))  # writes None as nothing
    return buffer.getvalue().encode()


def parquet_bytes(table: pa.Table) -> bytes:
    """Return ``table`` as a Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue())


def _flat(cell: CellScore) -> dict[str, Any]:
    row = cell.row
    known = {name: row[name] for name in (*_TEXT, *_WHOLE, *_FLAGS) if name in row}
    return {**cell.metrics, **known, "state": cell.state, "reason": cell.reason, "flags": "; ".join(row["flags"])}


def _harmless(text: str | None) -> str | None:
    return f"'{text}" if text is not None and text.startswith(_FORMULA) else text
