"""Rows of any number of folders, in one form; what cannot be read faithfully is refused.

This module guarantees: every ``*.parquet`` file below a root is either loaded or named in an error, except what a
running command has half-written; a row's file, its place in the file and the order of the roots change nothing; a
(cell, origin) occurs once. It does not repair or guess. Rows are read as they are, and nothing that runs a
cell is imported.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from benchmark.errors import FedSafetyError, UsageError, first_line
from benchmark.records.identity import find_divided_training, find_foreign_probe_set, find_foreign_responses
from benchmark.records.plausible import find_problem
from benchmark.records.schemas import ADDED, ORIGIN_COMMITTED, ORIGIN_LOCAL, READABLE_VERSIONS, TABLES
from benchmark.records.store import UNREADABLE, open_rows, row_files, with_added_columns
from benchmark.records.tuned import FILE_NAME as TUNED_FILE
from benchmark.records.tuned import FOLDER as TRIALS
from benchmark.records.tuned import TunedAttack, read_tuned
from leaderboard.rows.canonical import canonical_table, rows_digest
from leaderboard.rows.retractions import Retractions, retractions
from leaderboard.rows.rungs import Rung
from leaderboard.rows.submitted import (
    Loaded,
    Submission,
    check_elsewhere,
    check_probes,
    is_submission,
    known_probes,
    own_submissions,
    previewed,
    read_submission,
    settle,
    submission_folders,
)

_KEYS: dict[str, tuple[str, ...]] = {
    "cells": ("cell_key", "origin"),
    "rounds": ("training_key", "round", "aggregate_seconds"),
    "responses": ("response_key", "probe_id"),
    "verdicts": ("response_key", "probe_id", "judge"),
    "likelihoods": ("response_key", "probe_id", "role", "index"),
    "probes": ("probe_set", "probe_id"),
    "catalog": tuple(TABLES["catalog"].names),
    "task_scores": ("response_key", "requested", "sample_limit", "task", "metric", "filter"),
    "verifications": ("cell_key",),
    "inputs": ("training_key", "kind", "name"),
    "readings": ("suite", "sheet", "number"),
}

_LATER = ("likelihoods", "task_scores", "verifications", "inputs", "readings")
"""Tables that came after the first release: they enter the digest once they have rows, so that it stays what it was."""


_NONE = Retractions()

TunedAttacks = Mapping[str, tuple[TunedAttack, ...]]
"""Results of attack searches by suite."""


@dataclass(frozen=True)
class Tables:
    """The record tables (see :mod:`benchmark.records.schemas`), each in canonical form."""

    cells: pa.Table
    rounds: pa.Table
    responses: pa.Table
    verdicts: pa.Table
    likelihoods: pa.Table
    probes: pa.Table
    catalog: pa.Table
    task_scores: pa.Table
    verifications: pa.Table
    inputs: pa.Table
    readings: pa.Table

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) over the content of all rows; a table that came later counts once it has rows."""
        tables = [(each.name, getattr(self, each.name)) for each in fields(self)]
        return rows_digest([(name, table) for name, table in tables if name not in _LATER or table.num_rows])


@dataclass(frozen=True)
class Rows:
    """All rows of a page.

    Attributes:
        published: Committed rows and those of reproduced submissions.
        local: Rows of this machine's own runs.
        retractions: Which published and pending cells are withdrawn.
        pending: Rows of submissions that are not reproduced: shown, and no part of other numbers.
        rungs: Where the entry of a submitted cell stands, by cell key.
        tuned: Published results of attack searches by suite.
        local_tuned: Results of this machine's own attack searches by suite.
    """

    published: Tables
    local: Tables
    retractions: Retractions = _NONE
    pending: Tables = dataclasses.field(default_factory=lambda: _tables({name: [] for name in TABLES}))
    rungs: Mapping[str, Rung] = dataclasses.field(default_factory=dict)
    tuned: TunedAttacks = dataclasses.field(default_factory=dict)
    local_tuned: TunedAttacks = dataclasses.field(default_factory=dict)

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) over the content of all rows and of what is retracted of them."""
        parts = [self.cited_digest(pending=True), self.local.digest]
        return _digest_of(*parts, *([_tuned_digest(self.local_tuned)] if self.local_tuned else []))

    @cached_property
    def published_digest(self) -> str:
        """SHA-256 (hex) over the published rows, what is retracted of them, and results of searches; this is cited.

        Submissions that are not reproduced do not change it.
        """
        digest = self.published.digest
        if self.retractions.entries:
            digest = _digest_of(digest, self.retractions.digest)
        return _digest_of(digest, _tuned_digest(self.tuned)) if self.tuned else digest

    def cited_digest(self, *, pending: bool) -> str:
        """Return :attr:`published_digest`; for a score that rests on pending rows, one over these as well."""
        if not pending or not self.pending.cells.num_rows:
            return self.published_digest
        return _digest_of(self.published_digest, self.pending.digest)


def _digest_of(*parts: str) -> str:
    return rows_digest([(str(index), pa.table({"digest": [part]})) for index, part in enumerate(parts)])


def _tuned_digest(tuned: TunedAttacks) -> str:
    content = {suite: [result.model_dump(mode="json") for result in results] for suite, results in tuned.items()}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def load_rows(
    roots: Iterable[Path | str],
    *,
    local: Iterable[Path | str] = (),
    submitted: bool = True,
    without: Iterable[Path | str] = (),
    reproduced: Iterable[Path | str] = (),
    only: str = "",
) -> Rows:
    """Return the rows of all Parquet files below ``roots`` and ``local``, at any depth.

    Cells are published, pending or local by their own ``origin`` and rung. The other tables have no such column: they
    are local where their root holds local cells only. Each folder ``submitted/<id>/`` of a root is read by itself, see
    :mod:`leaderboard.rows.submitted`; so is a root of submitted cells alone.

    Args:
        roots: Folders of rows; a folder that is named twice is read once.
        local: Further folders, whose rows without an origin are local even if no cell is finished there yet.
        submitted: Whether to read the folders of submissions below ``roots``.
        without: Folders of submissions to leave out.
        reproduced: For a preview: verified folders, and folders of own runs, whose methods are taken as if they were
            submitted and reproduced, in place of a submission of the same id.
        only: Of ``reproduced`` own runs, the one method or pipeline to take; empty for all.

    Raises:
        UsageError: A root does not exist, or lies inside another; there are no own rows of ``only``.
        FedSafetyError: A file is unreadable, is not one of the benchmark's, has another schema version or other
            columns; a cell's key does not follow from its row; a cell occurs twice in one origin; two rows of one key,
            or two cells of one training, contradict each other; a submission holds what is not its own.
    """
    own = {Path(root).resolve() for root in local}
    shown = {Path(root).resolve() for root in reproduced}
    left_out = shown | {Path(root).resolve() for root in without}
    folders = sorted({Path(root).resolve() for root in roots} | own)
    for root in [*folders, *sorted(shown)]:
        if not root.is_dir():
            raise UsageError(f"no folder {str(root)!r} to read rows from; give a folder written by `fedsafety run`")
    for outer, inner in pairwise(folders):  # sorted by their parts, so a folder is followed by what lies inside it
        if inner.is_relative_to(outer):
            raise UsageError(
                f"the folder {str(inner)!r} lies inside {str(outer)!r}, so that its rows would be read twice; "
                f"name folders that do not contain each other"
            )
    parts: dict[bool, Loaded] = {flag: {name: [] for name in TABLES} for flag in (False, True)}
    below = {root: submission_folders(root) for root in folders}
    # Trials of attack searches are no rows of a board.
    every = {root: _load_root(root, [*below[root], root / TRIALS]) for root in folders}
    apart = {root for root in folders if is_submission(every[root])}
    paths = [*apart, *(path for found in below.values() for path in found if submitted and path not in left_out)]
    submissions = [
        read_submission(path, every.pop(path) if path in apart else _load_root(path)) for path in sorted(paths)
    ]
    for root, loaded in every.items():
        check_elsewhere(root, loaded)
    _check_probe_sets(every)
    _drop_foreign_descriptions(every)
    tuned: dict[bool, list[Path]] = {flag: [] for flag in (False, True)}
    for root, loaded in every.items():
        local_cells = [_is(cells, ORIGIN_LOCAL) for cells in loaded["cells"]]
        local_root = root in own or (bool(local_cells) and all(pc.all(mask).as_py() for mask in local_cells))
        for cells, mask in zip(loaded["cells"], local_cells, strict=True):
            parts[True]["cells"].append(cells.filter(mask))
            parts[False]["cells"].append(cells.filter(pc.invert(mask)))
        for name in TABLES:
            if name != "cells":
                parts[local_root][name].extend(loaded[name])
        tuned[local_root].append(root)
    previews = [each for path in sorted(shown) for each in _preview(path, parts[False], only)]
    replaced = {each.id for each in previews}
    settled = settle([*(each for each in submissions if each.id not in replaced), *previews], parts[False])
    published = {name: [*tables, *settled.reproduced[name]] for name, tables in parts[False].items()}
    try:
        rows = Rows(
            _tables(published),
            _tables(parts[True]),
            retractions(root for root in folders if root not in own | apart),
            _tables(settled.pending),
            settled.rungs,
            _tuned(tuned[False]),
            _tuned(tuned[True]),
        )
    except _RepeatedRowError as error:
        raise error.with_files([*folders, *sorted(shown)]) from error
    if rows.retractions.entries:
        rows.retractions.check([*rows.published.cells.to_pylist(), *rows.pending.cells.to_pylist()])
    return rows


def _tuned(roots: Iterable[Path]) -> TunedAttacks:
    """Return the results of attack searches below ``roots`` by suite, in order of scenario and defense.

    Raises:
        FedSafetyError: A file is not valid, or two files hold a result of one defense in one scenario.
    """
    found: dict[str, dict[tuple[str, str], TunedAttack]] = {}
    places = (TUNED_FILE, f"*/{TUNED_FILE}", f"{TRIALS}/*/{TUNED_FILE}")
    for path in sorted(path for root in roots for place in places for path in root.glob(place)):
        suite, results = read_tuned(path)
        for result in results:
            if found.setdefault(suite, {}).setdefault(result.place, result) != result:
                raise FedSafetyError(
                    f"{str(path)!r} holds another result of the search against {result.defense!r} in "
                    f"{result.scenario!r} of suite {suite!r} than a file read before; keep one of them"
                )
    return {suite: tuple(found[suite][place] for place in sorted(found[suite])) for suite in sorted(found)}


def _preview(path: Path, committed: Loaded, only: str) -> list[Submission]:
    loaded = _load_root(path)
    if is_submission(loaded):
        return [previewed(read_submission(path, loaded))]
    check_elsewhere(path, loaded)
    return own_submissions(path, loaded, committed, only)


_Loaded = Mapping[Path, Loaded]


def _wholly(loaded: _Loaded, origin: str) -> set[Path]:
    """Return the roots all of whose cells are of one origin."""
    return {
        root
        for root, tables in loaded.items()
        if tables["cells"] and all(pc.all(_is(cells, origin)).as_py() for cells in tables["cells"])
    }


def _check_probe_sets(loaded: _Loaded) -> None:
    """Refuse other roots that add to a committed probe set or change it: all scores on it would be others."""
    committed = _wholly(loaded, ORIGIN_COMMITTED)
    known = known_probes(table for root in committed for table in loaded[root]["probes"])
    for root in sorted(loaded.keys() - committed):
        check_probes(root, loaded[root]["probes"], known)


def _drop_foreign_descriptions(loaded: _Loaded) -> None:
    """Drop descriptions, of other roots than own runs, of what committed roots describe: they could rename it.

    Those of own runs stay; they stand behind the published ones.
    """
    committed = _wholly(loaded, ORIGIN_COMMITTED)
    described = {
        (row["kind"], row["id"])
        for root in committed
        for table in loaded[root]["catalog"]
        for row in table.select(["kind", "id"]).to_pylist()
    }
    for root in loaded.keys() - committed - _wholly(loaded, ORIGIN_LOCAL):
        loaded[root]["catalog"] = [
            table.filter(pa.array([(row["kind"], row["id"]) not in described for row in table.to_pylist()], pa.bool_()))
            for table in loaded[root]["catalog"]
        ]


def _is(cells: pa.Table, origin: str) -> pa.ChunkedArray:
    return pc.equal(cells.column("origin").cast(pa.string()), origin)


def _load_root(root: Path, apart: Sequence[Path] = ()) -> Loaded:
    """Return the tables below ``root`` without those in the folders ``apart``."""
    paths = row_files(root, below=True)
    if apart:
        paths = [path for path in paths if not any(path.is_relative_to(folder) for folder in apart)]
    loaded: Loaded = {name: [] for name in TABLES}
    with ThreadPoolExecutor(max_workers=2) as pool:
        for name, table in pool.map(_load_file, paths):
            loaded[name].append(table)
    whole = {name: pa.concat_tables(loaded[name]) for name in ("cells", "probes", "responses") if loaded[name]}
    contradiction = ""
    if "cells" in whole:
        contradiction = find_divided_training(whole["cells"])
        if not contradiction and "responses" in whole:
            contradiction = find_foreign_responses(whole["cells"], whole["responses"])
    if not contradiction and "probes" in whole:
        contradiction = find_foreign_probe_set(whole["probes"])
    if contradiction:
        raise FedSafetyError(
            f"{str(root)!r} cannot be right: {contradiction}; delete the file of the changed rows and run again"
        )
    # The added columns have done their work, and the digest of rows was made without them.
    loaded["probes"] = [table.drop_columns(list(ADDED["probes"])) for table in loaded["probes"]]
    return loaded


def _load_file(path: Path) -> tuple[str, pa.Table]:
    try:
        with open_rows(path) as file:
            name = _checked_table_name(path, file.schema_arrow)
            table = file.read(use_threads=False)
    except UNREADABLE as error:
        raise FedSafetyError(
            f"cannot read {str(path)!r}: {first_line(error)}; delete the file and run the command that "
            f"wrote it again, only missing work is redone"
        ) from error
    table = with_added_columns(table, name)
    for field in TABLES[name]:
        if not field.nullable and table.column(field.name).null_count:
            raise FedSafetyError(
                f"{str(path)!r} has no value in some rows of column {field.name!r}, which every row of table "
                f"{name!r} must fill; delete the file and run again"
            )
    for field in TABLES[name]:
        if table.schema.field(field.name).type != field.type:
            cast = table.column(field.name).cast(field.type)
            table = table.set_column(table.column_names.index(field.name), field, cast)
    table = table.select(TABLES[name].names).replace_schema_metadata(None)
    try:
        table.validate(full=True)
    except pa.ArrowException as error:
        raise FedSafetyError(
            f"{str(path)!r} holds damaged values: {first_line(error)}; delete the file and run the command that wrote "
            f"it again"
        ) from error
    if problem := find_problem(name, table):
        raise FedSafetyError(f"{str(path)!r} cannot be right: {problem}; delete the file and make its rows again")
    return name, table


def _checked_table_name(path: Path, schema: pa.Schema) -> str:
    metadata = schema.metadata or {}
    name: str = metadata.get(b"fedsafety.table", b"").decode(errors="replace")
    if name not in TABLES:
        raise FedSafetyError(
            f"{str(path)!r} is not a file of benchmark rows (fedsafety.table is {name!r}, must be one of "
            f"{', '.join(TABLES)}); move it out of the folder"
        )
    version = metadata.get(b"fedsafety.schema_version", b"none").decode(errors="replace")
    if version not in READABLE_VERSIONS:
        raise FedSafetyError(
            f"{str(path)!r} holds rows of schema version {version}, this release reads versions "
            f"{' and '.join(READABLE_VERSIONS)}; "
            f"make the rows again with `fedsafety run` or install the release that wrote them"
        )
    expected = TABLES[name]
    found = dict(zip(schema.names, schema.types, strict=True))
    later = ADDED.get(name, ()) if version == READABLE_VERSIONS[0] else ()
    wrong = [
        field.name
        for field in expected
        if not _same_type(found.get(field.name), field.type) and (field.name in found or field.name not in later)
    ]
    extra = [column for column in schema.names if column not in expected.names]
    if wrong or extra:
        raise FedSafetyError(
            f"{str(path)!r} does not have the columns of table {name!r} in schema version {version} (missing or "
            f"of another type: {', '.join(wrong) or 'none'}; unknown: {', '.join(extra) or 'none'}); make the rows "
            f"again with `fedsafety run`"
        )
    return name


def _same_type(found: pa.DataType | None, expected: pa.DataType) -> bool:
    # Parquet has no seconds: a timestamp comes back in milliseconds.
    if found is not None and pa.types.is_timestamp(found) and pa.types.is_timestamp(expected):
        return bool(found.tz == expected.tz)
    return bool(found == expected)


class _RepeatedRowError(FedSafetyError):
    """Two rows of one key contradict each other.

    Args:
        message: The contradiction and the way out.
        table: Name of the table.
        key: Values of the columns by which the table's rows are told apart.
    """

    def __init__(self, message: str, table: str, key: Mapping[str, Any]) -> None:
        super().__init__(message)
        self._table, self._key = table, key

    def with_files(self, roots: Iterable[Path]) -> FedSafetyError:
        """Return the error with the files that hold such rows. They are read again, because rows name no file."""
        holders = []
        for path in dict.fromkeys(path for root in roots for path in row_files(root, below=True)):
            name, table = _load_file(path)
            if name == self._table:
                for column, value in self._key.items():
                    plain = table.column(column)
                    plain = plain.cast(pa.string()) if pa.types.is_dictionary(plain.type) else plain
                    table = table.filter(pc.equal(plain, value))
                holders += [str(path)] * bool(table.num_rows)
        return FedSafetyError(f"{self}{': ' if holders else ''}{', '.join(map(repr, holders))}")


def _tables(parts: dict[str, list[pa.Table]]) -> Tables:
    return Tables(**{name: _joined(name, tables) for name, tables in parts.items()})


def _joined(name: str, tables: Sequence[pa.Table]) -> pa.Table:
    empty = TABLES[name].empty_table().replace_schema_metadata(None).drop_columns(list(ADDED.get(name, ())))
    table = pa.concat_tables([empty, *tables], promote_options="default")

    def refuse_repeat(one: dict[str, Any], other: dict[str, Any]) -> None:
        key = {column: one[column] for column in _KEYS[name]}
        shown = ", ".join(f"{column}={value!r}" for column, value in key.items())
        if name == "cells":
            raise _RepeatedRowError(
                f"the cell {shown} ({one['suite']}, {one['scenario']}, {one['defense']}, seed {one['seed']}) is stored "
                f"twice; a cell is stored once per origin: delete one of the files that hold it",
                name,
                key,
            )
        different = [column for column in one if one[column] != other[column]]
        if different:
            raise _RepeatedRowError(
                f"two rows of table {name!r} with {shown} contradict each other in {', '.join(different)}; delete the "
                f"outdated file and run the command that wrote it again",
                name,
                key,
            )

    return canonical_table(table, _KEYS[name], None if name == "rounds" else refuse_repeat)
