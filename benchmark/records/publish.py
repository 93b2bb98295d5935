"""From local rows to committed ones: finished rows move into a results folder as few, immutable files.

The catalog is the exception: its rows describe methods and measure nothing, so a suite has one catalog, which each
publishing brings up to date.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from benchmark import PROTOCOL_VERSION
from benchmark.errors import UsageError
from benchmark.records.schemas import ORIGIN_COMMITTED, STATUS_FAILED, TABLES
from benchmark.records.store import Store, read_table, row_files
from benchmark.records.tuned import TunedAttack, add_tuned, committed_file, runs_file, tuned_of
from benchmark.records.withheld import Extents, check_no_texts, extents_in, extents_of, strictest, without_texts
from benchmark.suite_names import no_rows


def publish(store: Store, results: Path, suite: str, extents: Extents = MappingProxyType({})) -> dict[str, int]:
    """Add the rows of a suite's cells that ``results`` lacks; return how many rows of each table were added.

    Digests replace the texts that the suite does not publish, as the rows of its probes state
    (:mod:`benchmark.records.withheld`). Rows that state more than the suite publishes are refused.

    Results of attack searches are added to the suite's file of them, in place of former results of the same places
    (:mod:`benchmark.records.tuned`).

    Committed measurements are never changed: what is new becomes one new file a table, named by its content. The
    catalog is replaced by one that holds the new descriptions and, of what these lack, the former ones. Failed cells
    stay behind, and so do cells of another protocol (see :func:`other_protocols`).

    Args:
        store: Rows of runs.
        results: Folder of committed rows.
        suite: Suite id.
        extents: What is published of each set of probes, by the present settings of the suite.

    Raises:
        UsageError: There is nothing to publish, or the suite's rows may not be.
        FedSafetyError: A file is damaged or of another schema version, or cannot be written.
    """
    _refuse_trials(store, suite)
    cells = _finished(store, suite)
    of_protocol = pc.equal(_text(cells, "protocol_version"), PROTOCOL_VERSION)
    if len(cells) and not pc.any(of_protocol).as_py():
        raise UsageError(
            f"all finished cells of suite {suite!r} in {store.root} are of protocol {_protocols(cells)}, and this "
            f"release publishes protocol {PROTOCOL_VERSION}; run the suite again, or publish with the release that "
            f"made them"
        )
    cells = cells.filter(of_protocol)
    tasks = _task_scores(store, _values(cells, "response_key"), results / suite)
    tuned = _tuned(store, results, suite)
    cells = _without(cells, "cell_key", _committed(results / suite, "cells", "cell_key"))
    if not len(cells) and not len(tasks) and not tuned:
        held = sorted(set(pc.unique(_text(store.read_all("cells"), "suite")).to_pylist()))
        if suite not in held:
            way_out = f"make some with `fedsafety run --suite {suite}`, or name a folder that has some with --runs"
            raise no_rows(suite, held, str(store.root), way_out, rows="finished cells")
        raise UsageError(f"{results} already has each finished cell of suite {suite!r} in {store.root}; run more first")
    origin = pa.array([ORIGIN_COMMITTED] * len(cells)).dictionary_encode().cast(TABLES["cells"].field("origin").type)
    cells = cells.set_column(cells.schema.get_field_index("origin"), TABLES["cells"].field("origin"), origin)
    response_keys, probe_sets = _values(cells, "response_key"), _values(cells, "probe_set")
    parts = {
        "rounds": _select(store, "rounds", "training_key", _values(cells, "training_key"), results / suite),
        "responses": _select(store, "responses", "response_key", response_keys, results / suite),
        "likelihoods": _select(store, "likelihoods", "response_key", response_keys, results / suite),
        "verdicts": _select(store, "verdicts", "response_key", response_keys, results / suite),
        "probes": _select(store, "probes", "probe_set", probe_sets, results / suite),
        "task_scores": tasks,
        "inputs": _select(store, "inputs", "training_key", _values(cells, "training_key"), results / suite),
        # Last, since a cell that is there counts as published with all that belongs to it.
        "cells": cells,
    }
    extents = _extents(store, results / suite, suite, probe_sets, extents)
    parts = {table: without_texts(table, rows, extents) for table, rows in parts.items()}
    for table, rows in parts.items():
        check_no_texts(table, rows, extents)
    described = _replace_catalog(store, results / suite, suite)
    for table, rows in parts.items():
        if len(rows):
            write_committed(results / suite, table, rows)
    added = {table: len(rows) for table, rows in parts.items()} | {"catalog": described}
    if tuned:
        added["tuned attacks"] = add_tuned(committed_file(results, suite), suite, tuned)
    return added


def _tuned(store: Store, results: Path, suite: str) -> list[TunedAttack]:
    """Return the results of attack searches that the committed file lacks."""
    committed = tuned_of(committed_file(results, suite), suite)
    own = tuned_of(runs_file(store.root, suite), suite)
    return [result for place, result in own.items() if committed.get(place) != result]


def other_protocols(store: Store, suite: str) -> str:
    """Return in words which finished cells of a suite are not published because of their protocol; empty if none."""
    cells = _finished(store, suite)
    others = cells.filter(pc.not_equal(_text(cells, "protocol_version"), PROTOCOL_VERSION))
    if not len(others):
        return ""
    return (
        f"{len(others)} finished cells of protocol {_protocols(others)} stay in {store.root}: this release publishes "
        f"protocol {PROTOCOL_VERSION}"
    )


def _finished(store: Store, suite: str) -> pa.Table:
    """Return the cells of a suite that did not fail."""
    cells = store.read_all("cells")
    return cells.filter(
        pc.and_(pc.equal(_text(cells, "suite"), suite), pc.not_equal(_text(cells, "status"), STATUS_FAILED))
    )


def _protocols(cells: pa.Table) -> str:
    return ", ".join(sorted(set(pc.unique(_text(cells, "protocol_version")).to_pylist())))


def _refuse_trials(store: Store, suite: str) -> None:
    """Refuse rows of a suite whose settings declare that its scores mean nothing.

    Raises:
        UsageError: The suite is not publishable.
    """
    row = _by_name(_catalogs_of(store, suite)).get(("suite", suite))
    settings = json.loads(row["settings"]) if row is not None and row["settings"] else {}
    if not settings.get("publishable", True):
        raise UsageError(
            f"suite {suite!r} is not publishable: its runs prove that the benchmark works, and its scores mean "
            f"nothing; leave its rows in {store.root}"
        )


def _extents(store: Store, folder: Path, suite: str, probe_sets: set[str], extents: Extents) -> Extents:
    """Return what is published of each set of probes.

    Raises:
        UsageError: ``extents``, or a catalog of the suite, publishes less than the rows of the probes state. The digest
            of a probe set covers what is published of it, so that the cells have other keys by now.
    """
    committed = [read_table(path, "catalog") for path in row_files(folder / "catalog")]
    for table in [*committed, *_catalogs_of(store, suite)]:
        row = _by_name([table]).get(("suite", suite))
        extents = strictest(extents, extents_of(json.loads(row["settings"] or "{}"))) if row is not None else extents
    stated: dict[str, str] = {}
    for probe_set in sorted(probe_sets & store.keys("probes")):
        stated = strictest(stated, extents_in(store.read("probes", probe_set)))
    merged = strictest(stated, extents)
    for name, extent in stated.items():
        if merged[name] != extent:
            raise UsageError(
                f"the rows in {store.root} were made when suite {suite!r} published the probes {name!r} as {extent}, "
                f"and it publishes them as {merged[name]} now; run the suite again"
            )
    return merged


def _select(store: Store, table: str, column: str, selected: set[str], folder: Path) -> pa.Table:
    """Return the store's rows whose key is selected and not committed yet."""
    missing = selected - _committed(folder, table, column)
    keys = [key for key in sorted(store.keys(table)) if key.partition("-")[0] in missing]
    tables = [store.read(table, key) for key in keys]
    return pa.concat_tables(tables).unify_dictionaries() if tables else TABLES[table].empty_table()


def _task_scores(store: Store, response_keys: set[str], folder: Path) -> pa.Table:
    """Return the scores of whole tasks that the folder lacks. A committed cell may get its scores later."""
    rows = store.read_all("task_scores").unify_dictionaries()
    named = pc.binary_join_element_wise(_text(rows, "response_key"), _text(rows, "requested"), "/")
    selected = pc.is_in(_text(rows, "response_key"), pa.array(sorted(response_keys), pa.string()))
    whole = pc.equal(rows["sample_limit"], 0)
    committed: set[str] = set()
    for path in row_files(folder / "task_scores"):
        former = read_table(path, "task_scores")
        keys = pc.binary_join_element_wise(_text(former, "response_key"), _text(former, "requested"), "/")
        committed |= set(keys.to_pylist())
    new = pc.invert(pc.is_in(named, pa.array(sorted(committed), pa.string())))
    return rows.filter(pc.and_(pc.and_(selected, whole), new))


def _replace_catalog(store: Store, folder: Path, suite: str) -> int:
    """Update the one catalog of ``folder``; return the number of new or changed rows."""
    former = [read_table(path, "catalog") for path in row_files(folder / "catalog")]
    former_rows = _by_name(former)
    merged = former_rows | _by_name(_catalogs_of(store, suite))
    changed = sum(former_rows.get(name) != row for name, row in merged.items())
    if not merged or (not changed and len(former) == 1):
        return 0
    written = write_committed(folder, "catalog", pa.Table.from_pylist(list(merged.values()), schema=TABLES["catalog"]))
    # Remove the old catalog last: a concurrent reader may see both versions, never none.
    committed = Store(folder)
    for key in committed.keys("catalog") - {written}:
        committed.remove("catalog", key)
    return changed


def _catalogs_of(store: Store, suite: str) -> list[pa.Table]:
    """Return the catalogs of plans of ``suite`` by size, then by age: the largest last, the newest last of a size."""
    keys = sorted(store.keys("catalog"), key=lambda key: (store.written_at("catalog", key), key))
    tables = [store.read("catalog", key) for key in keys]
    catalogs = [table for table in tables if ("suite", suite) in _by_name([table])]
    return sorted(catalogs, key=len)


def _by_name(catalogs: Sequence[pa.Table]) -> dict[tuple[str, str], dict[str, Any]]:
    """Return catalog rows by (kind, id); a later row replaces an earlier one."""
    return {(row["kind"], row["id"]): row for table in catalogs for row in table.to_pylist()}


def write_committed(folder: Path, table: str, rows: pa.Table) -> str:
    """Write sorted rows of a table as one file named by their content; return the name.

    Args:
        folder: Folder of a suite's committed rows.
        table: Name of the table.
        rows: The rows, with the table's columns.
    """
    rows = rows.cast(TABLES[table]).combine_chunks()
    decoded = pa.table({name: _text(rows, name) for name in _ORDER[table]})
    rows = rows.take(pc.sort_indices(decoded, sort_keys=[(name, "ascending") for name in _ORDER[table]]))
    content = pa.BufferOutputStream()
    with pa.ipc.new_stream(content, rows.schema) as stream:
        stream.write_table(rows)
    key = hashlib.sha256(content.getvalue()).hexdigest()[:32]
    Store(folder).write(table, key, rows)
    return key


_ORDER = {
    "cells": ("scenario", "defense", "stage", "seed"),
    "rounds": ("training_key", "round"),
    "responses": ("response_key", "probe_id"),
    "verdicts": ("judge", "response_key", "probe_id"),
    "likelihoods": ("response_key", "probe_id", "role", "index"),
    "probes": ("probe_set", "probe_id"),
    "catalog": ("kind", "id"),
    "task_scores": ("response_key", "requested", "task", "metric", "filter"),
    "inputs": ("training_key", "kind", "name"),
    "readings": ("sheet", "number"),
}


def _committed(folder: Path, table: str, column: str) -> set[str]:
    keys: set[str] = set()
    for path in row_files(folder / table):
        keys |= _values(read_table(path, table), column)
    return keys


def _without(rows: pa.Table, column: str, values: set[str]) -> pa.Table:
    return rows.filter(pc.invert(pc.is_in(_text(rows, column), pa.array(sorted(values), pa.string()))))


def _values(rows: pa.Table, column: str) -> set[str]:
    return set(pc.unique(_text(rows, column)).to_pylist())


def _text(rows: pa.Table, column: str) -> pa.ChunkedArray:
    return rows[column].cast(pa.string())
