"""From local rows to committed ones: finished rows move into a results folder as few, immutable files."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from benchmark.errors import UsageError, unknown_name
from benchmark.records.schemas import ORIGIN_COMMITTED, STATUS_FAILED, TABLES
from benchmark.records.store import Store, read_table


def publish(store: Store, results: Path, suite: str) -> dict[str, int]:
    """Add the rows of a suite's cells that ``results`` lacks; return how many rows of each table were added.

    Committed files are never changed: what is new becomes one new file a table, named by its content. Failed cells
    stay behind.

    Raises:
        UsageError: There is nothing to publish.
        FedSafetyError: A file is damaged or of another schema version, or cannot be written.
    """
    cells = store.read_all("cells")
    cells = cells.filter(
        pc.and_(pc.equal(_text(cells, "suite"), suite), pc.not_equal(_text(cells, "status"), STATUS_FAILED))
    )
    cells = _without(cells, "cell_key", _committed(results / suite, "cells", "cell_key"))
    if not len(cells):
        held = sorted(set(pc.unique(_text(store.read_all("cells"), "suite")).to_pylist()))
        if suite not in held:
            raise unknown_name("suite with finished cells", suite, held)
        raise UsageError(f"{results} already has each finished cell of suite {suite!r} in {store.root}; run more first")
    origin = pa.array([ORIGIN_COMMITTED] * len(cells)).dictionary_encode().cast(TABLES["cells"].field("origin").type)
    cells = cells.set_column(cells.schema.get_field_index("origin"), TABLES["cells"].field("origin"), origin)
    response_keys = _values(cells, "response_key")
    parts = {
        "rounds": _select(store, "rounds", "training_key", _values(cells, "training_key"), results / suite),
        "responses": _select(store, "responses", "response_key", response_keys, results / suite),
        "verdicts": _select(store, "verdicts", "response_key", response_keys, results / suite),
        "probes": _select(store, "probes", "probe_set", _values(cells, "probe_set"), results / suite),
        "catalog": _largest(store, "catalog"),
        # Last, since a cell that is there counts as published with all that belongs to it.
        "cells": cells,
    }
    for table, rows in parts.items():
        if len(rows):
            _write(results / suite, table, rows)
    return {table: len(rows) for table, rows in parts.items()}


def _select(store: Store, table: str, column: str, wanted: set[str], folder: Path) -> pa.Table:
    """Return the store's rows with a wanted key that the folder lacks."""
    missing = wanted - _committed(folder, table, column)
    keys = [key for key in sorted(store.keys(table)) if key.partition("-")[0] in missing]
    tables = [store.read(table, key) for key in keys]
    return pa.concat_tables(tables).unify_dictionaries() if tables else TABLES[table].empty_table()


def _write(folder: Path, table: str, rows: pa.Table) -> None:
    """Write sorted rows as one file named by their content."""
    rows = rows.cast(TABLES[table]).combine_chunks()
    decoded = pa.table({name: _text(rows, name) for name in _ORDER[table]})
    rows = rows.take(pc.sort_indices(decoded, sort_keys=[(name, "ascending") for name in _ORDER[table]]))
    content = pa.BufferOutputStream()
    with pa.ipc.new_stream(content, rows.schema) as stream:
        stream.write_table(rows)
    Store(folder).write(table, hashlib.sha256(content.getvalue()).hexdigest()[:32], rows)


_ORDER = {
    "cells": ("scenario", "defense", "stage", "seed"),
    "rounds": ("training_key", "round"),
    "responses": ("response_key", "probe_id"),
    "verdicts": ("judge", "response_key", "probe_id"),
    "probes": ("probe_set", "probe_id"),
    "catalog": ("kind", "id"),
}


def _largest(store: Store, table: str) -> pa.Table:
    """Return the rows of the largest file, the newest of equals: of several catalogs the one of the widest plan."""
    newest_last = sorted(store.keys(table), key=lambda key: store.written_at(table, key))
    return max(reversed([store.read(table, key) for key in newest_last]), key=len)


def _committed(folder: Path, table: str, column: str) -> set[str]:
    found: set[str] = set()
    for path in sorted((folder / table).glob("*.parquet")):
        found |= _values(read_table(path, table), column)
    return found


def _without(rows: pa.Table, column: str, values: set[str]) -> pa.Table:
    return rows.filter(pc.invert(pc.is_in(_text(rows, column), pa.array(sorted(values), pa.string()))))


def _values(rows: pa.Table, column: str) -> set[str]:
    return set(pc.unique(_text(rows, column)).to_pylist())


def _text(rows: pa.Table, column: str) -> pa.ChunkedArray:
    return rows[column].cast(pa.string())
