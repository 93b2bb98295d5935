"""Rows of submissions: what a folder may hold, and which of its rows count beside committed rows.

Each folder ``submitted/<id>/`` below a root is the submission of one method. Its rows come from strangers, so
they are bounded:

- its cells are of origin ``submitted`` and of the method it is called after: a defense of that id, alone or in a
  pipeline, or an attack of that id on any defense; an id, and a pipeline, is claimed by one folder only;
- verifications lie in such folders and nowhere else, and are of the same id;
- it adds rows to its own cells only: rounds, responses, verdicts and scores under a key that committed rows, or a
  submission on a higher rung, already have are not read, nor probes or descriptions of what is not its own.

So a submission can spoil its own line, and no other.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from benchmark.errors import FedSafetyError, unknown_name
from benchmark.records.schemas import (
    ADDED,
    KIND_ATTACK,
    KIND_DEFENSE,
    ORIGIN_LOCAL,
    ORIGIN_SUBMITTED,
    RUNG_REPRODUCED,
    TABLES,
)
from benchmark.records.tuned import tuned_scenarios
from benchmark.records.withheld import withheld
from leaderboard.rows.retractions import FILE_NAME
from leaderboard.rows.rungs import FOLDER, RUNGS, Rung, lowest

LONGEST_TEXT = 10_000
"""Characters of a description, reason or flag of a submission: a page shows them whole."""
LARGEST_NUMBER = 2.0**53
"""Costs and scores beyond it are no measurement, and their sums would overflow for everybody."""

Loaded = dict[str, list[pa.Table]]
"""Tables of a root by name, one a file."""
Probes = Mapping[str, Collection[tuple[Any, ...]]]
"""Rows of table ``probes`` by probe set, with digests in place of texts."""


@dataclass(frozen=True)
class Submission:
    """The rows of one submission.

    Attributes:
        id: What was submitted.
        path: Where its rows lie.
        tables: All its rows by table name.
        previewed: In a preview, what its rows are really; see :class:`leaderboard.rows.rungs.Rung`.
    """

    id: str
    path: Path
    tables: Mapping[str, pa.Table]
    previewed: str = ""


def submission_folders(root: Path) -> list[Path]:
    """Return the folders of submissions below ``root``, sorted.

    Raises:
        FedSafetyError: A file of rows lies among them instead of in one of them.
    """
    place = root / FOLDER
    if not place.is_dir():
        return []
    stray = next(iter(sorted(path for path in place.glob("*.parquet") if path.is_file())), None)
    if stray is not None:
        raise FedSafetyError(f"{str(stray)!r} lies in no folder of a submission; rows lie in {FOLDER}/<id>/<table>/")
    return sorted(path for path in place.iterdir() if path.is_dir())


def is_submission(loaded: Loaded) -> bool:
    """Return whether a root holds submitted cells and no others, as a folder that ``fedsafety verify`` wrote does."""
    cells = [table for table in loaded["cells"] if table.num_rows]
    return bool(cells) and all(set(_values(table, "origin")) == {ORIGIN_SUBMITTED} for table in cells)


def read_submission(path: Path, loaded: Loaded) -> Submission:
    """Return what a folder submits.

    Raises:
        FedSafetyError: Cells or verifications are not of the id that it is called after, cells are not submitted, a
            text is too long, or it holds retractions or readings.
    """
    tables = {name: _joined(name, parts) for name, parts in loaded.items()}
    named = sorted(set(_values(tables["verifications"], "id")))
    id_ = path.name if path.parent.name == FOLDER or len(named) != 1 else named[0]
    where = f"the folder {str(path)!r} of the submission {id_!r}"
    if any(name != id_ for name in named):
        raise FedSafetyError(f"{where} holds verifications of {', '.join(map(repr, named))}; remove them")
    other = sorted(set(_values(tables["cells"], "origin")) - {ORIGIN_SUBMITTED})
    if other:
        raise FedSafetyError(f"{where} holds {other[0]} cells; all of a submission's cells are of origin submitted")
    for defense, attack in sorted(set(zip(*(_values(tables["cells"], n) for n in ("defense", "attack")), strict=True))):
        if id_ not in defense.split("+") and id_ != attack:
            raise FedSafetyError(
                f"{where} holds cells of {defense!r} under attack {attack!r}, which is neither a defense nor an attack "
                f"of that id; a folder holds the rows of the one method that it is called after"
            )
    if any(path.rglob(FILE_NAME)):
        raise FedSafetyError(
            f"{where} holds a {FILE_NAME}; submitted rows are retracted like others, in the suite's own folder"
        )
    if tables["readings"].num_rows:
        raise FedSafetyError(f"{where} holds readings, which only the project's own rows do; remove them")
    _check_sizes(tables, where)
    return Submission(id_, path, tables)


def check_elsewhere(root: Path, loaded: Loaded) -> None:
    """Refuse submitted cells and verifications in a root that is not a submission.

    Raises:
        FedSafetyError: It holds some.
    """
    if any(ORIGIN_SUBMITTED in _values(table, "origin") for table in loaded["cells"]):
        raise FedSafetyError(
            f"{str(root)!r} holds submitted cells among others; a submission's rows lie in {FOLDER}/<id>/, apart from "
            f"the project's"
        )
    if any(table.num_rows for table in loaded["verifications"]):
        raise FedSafetyError(
            f"{str(root)!r} holds verifications, which only folders {FOLDER}/<id>/ do; `fedsafety verify` writes them"
        )


def known_probes(tables: Iterable[pa.Table]) -> Probes:
    """Return the probes by probe set, with digests in place of their texts: published rows may hold no others."""
    known: dict[str, set[tuple[Any, ...]]] = defaultdict(set)
    for row in (row for table in tables for row in table.to_pylist()):
        known[row["probe_set"]].add(_by_digest(row))
    return known


def _by_digest(probe: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(withheld(value) if name in ("instruction", "reference") else value for name, value in probe.items())


def check_probes(root: Path, tables: Iterable[pa.Table], known: Probes) -> None:
    """Refuse probes that add to a ``known`` probe set or change it.

    Raises:
        FedSafetyError: There is one; names it.
    """
    for row in (row for table in tables for row in table.to_pylist()):
        if row["probe_set"] in known and _by_digest(row) not in known[row["probe_set"]]:
            raise FedSafetyError(
                f"probe {row['probe_id']!r} in {str(root)!r} is not that of the committed probe set "
                f"{row['probe_set']!r}; make the rows of that folder again with `fedsafety run`"
            )


def previewed(submission: Submission) -> Submission:
    """Return a verified submission as if it were reproduced."""
    entries = _entries(submission)
    reached = min((entry.rung.name for entry in entries), key=RUNGS.index, default=RUNGS[0])
    return replace(submission, previewed=reached)


def own_submissions(path: Path, loaded: Loaded, committed: Loaded, only: str = "") -> list[Submission]:
    """Return the methods of own runs as if each were submitted, without those that have committed rows.

    Args:
        path: Where the runs lie.
        loaded: Their rows.
        committed: Committed rows.
        only: A method's id, or a pipeline; empty for all.

    Raises:
        UsageError: There are no own rows of ``only`` (names the nearest one).
    """
    tables = {name: _joined(name, parts) for name, parts in loaded.items()}
    tables["cells"] = tables["cells"].filter(pc.equal(_text(tables["cells"], "origin"), ORIGIN_LOCAL))
    defenses, scenarios = (
        {value for table in committed["cells"] for value in _values(table, name)} for name in ("defense", "scenario")
    )
    based = {name for name, base in _bases(tables["catalog"]).items() if base and name not in scenarios}
    tuned = tuned_scenarios(tables["catalog"].to_pylist())
    rows = tables["cells"].select(["scenario", "attack", "defense"]).to_pylist()
    owners = [
        ""
        if row["scenario"] in tuned
        else row["attack"]
        if row["scenario"] in based
        else ""
        if row["defense"] in defenses
        else row["defense"]
        for row in rows
    ]
    found = sorted(set(owners) - {""})
    chosen = [id_ for id_ in found if not only or only in (id_, *id_.split("+"))]
    if only and not chosen:
        raise unknown_name("method with own rows", only, found)
    label = TABLES["cells"].field("origin").type
    made = []
    for id_ in chosen:
        cells = tables["cells"].filter(pa.array([owner == id_ for owner in owners], pa.bool_()))
        origin = pa.array([ORIGIN_SUBMITTED] * len(cells)).dictionary_encode().cast(label)
        cells = cells.set_column(cells.schema.get_field_index("origin"), "origin", origin)
        made.append(Submission(id_, path, {**tables, "cells": cells}, ORIGIN_LOCAL))
    return made


@dataclass(frozen=True)
class Settled:
    """Rows of all submissions that count, reproduced and pending ones.

    Attributes:
        reproduced: Rows of reproduced entries, by table.
        pending: Rows of all others.
        rungs: Rung of the entry that a submitted cell belongs to, by cell key.
    """

    reproduced: Loaded
    pending: Loaded
    rungs: Mapping[str, Rung]


def settle(submissions: Sequence[Submission], committed: Loaded) -> Settled:
    """Return what counts of ``submissions`` beside ``committed`` rows.

    Raises:
        FedSafetyError: Two folders claim one id, pipeline or cell; a probe is not that of the committed set; cells are
            of a suite without committed rows, while there are some of others.
    """
    _check_ids(submissions)
    known = known_probes(committed["probes"])
    for submission in submissions:
        check_probes(submission.path, [submission.tables["probes"]], known)
    taken = _Taken.by(committed)
    suites = {suite for table in committed["cells"] for suite in _values(table, "suite")}
    entries = [entry for submission in submissions for entry in _entries(submission)]
    parts: dict[bool, Loaded] = {flag: {name: [] for name in TABLES} for flag in (False, True)}
    rungs: dict[str, Rung] = {}
    # Of two entries that share a key, the one that was verified further keeps it.
    for entry in sorted(entries, key=lambda each: (-RUNGS.index(each.rung.name), each.submission.id, each.name)):
        if suites and entry.suite not in suites:
            raise FedSafetyError(
                f"{str(entry.submission.path)!r} holds cells of suite {entry.suite!r}, of which there are no committed "
                f"rows; remove them"
            )
        for name, table in taken.own_rows(entry).items():
            parts[entry.rung.reproduced][name].append(table)
        for key in _values(entry.cells, "cell_key"):
            if rungs.setdefault(key, entry.rung) is not entry.rung:
                raise FedSafetyError(
                    f"{str(entry.submission.path)!r} holds the cell {key!r} of another submission, {rungs[key].id!r}; "
                    f"a cell is stored once, remove it"
                )
    return Settled(parts[True], parts[False], rungs)


def _check_ids(submissions: Sequence[Submission]) -> None:
    """Refuse two folders that claim one id, or one pipeline."""
    holders: dict[str, Submission] = {}
    for submission in submissions:
        claimed = {submission.id}
        claimed |= {each for each in _values(submission.tables["cells"], "defense") if submission.id in each.split("+")}
        for name in sorted(claimed):
            other = holders.setdefault(name, submission)
            if other is not submission:
                raise FedSafetyError(
                    f"{str(other.path)!r} and {str(submission.path)!r} both claim {name!r}; who was first keeps it, "
                    f"rename the other"
                )


@dataclass(frozen=True)
class _Entry:
    """The cells of a submission that stand or fall together: a defense, or an attack, in a suite."""

    submission: Submission
    suite: str
    name: str
    cells: pa.Table
    rung: Rung


def _entries(submission: Submission) -> list[_Entry]:
    cells = submission.tables["cells"]
    verifications = {row["cell_key"]: row for row in submission.tables["verifications"].to_pylist()}
    columns = ("suite", "defense", "attack", "cell_key")
    places: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    keys = []
    for index, (suite, defense, attack, key) in enumerate(
        zip(*(_values(cells, name) for name in columns), strict=True)
    ):
        own = submission.id == defense or submission.id in defense.split("+")
        places[(suite, KIND_DEFENSE, defense) if own else (suite, KIND_ATTACK, attack)].append(index)
        keys.append(key)
    made = []
    for (suite, kind, name), indices in sorted(places.items()):
        rung = lowest(kind, submission.id, [keys[index] for index in indices], verifications)
        if submission.previewed:
            rung = replace(rung, name=RUNG_REPRODUCED, reason="", previewed=submission.previewed)
        made.append(_Entry(submission, suite, name, cells.take(pa.array(indices)), rung))
    return made


class _Taken:
    """Keys under which rows already count, and what is already described."""

    def __init__(self) -> None:
        self.keys: dict[str, set[str]] = {"training_key": set(), "response_key": set(), "probe_set": set()}
        self.described: set[tuple[str, str]] = set()
        self.judges: set[str] | None = None
        """Judges of committed rows, if there are any: these alone define the judges and probes."""

    @classmethod
    def by(cls, committed: Loaded) -> _Taken:
        made = cls()
        for cells in committed["cells"]:
            for column, keys in made.keys.items():
                keys.update(_values(cells, column))
            for kind in ("scenario", KIND_ATTACK, KIND_DEFENSE):
                made.described.update((kind, part) for name in set(_values(cells, kind)) for part in name.split("+"))
        if any(cells.num_rows for cells in committed["cells"]):
            judged = (pc.unique(_text(table, "judge")).to_pylist() for table in committed["verdicts"])
            made.judges = {judge for judges in judged for judge in judges}
        for table in committed["catalog"]:
            made.described.update(zip(_values(table, "kind"), _values(table, "id"), strict=True))
        return made

    def own_rows(self, entry: _Entry) -> dict[str, pa.Table]:
        """Return the rows that ``entry`` adds, by table, and take their keys."""
        tables = entry.submission.tables
        own = {column: set(_values(entry.cells, column)) - keys for column, keys in self.keys.items()}
        rows = {"cells": entry.cells}
        for name, column in _KEY.items():
            wanted = set() if name == "probes" and self.judges is not None else own[column]
            rows[name] = _with(tables[name], column, wanted)
        if self.judges is not None:
            rows["verdicts"] = _with(rows["verdicts"], "judge", self.judges)
        rows["verifications"] = _with(tables["verifications"], "cell_key", set(_values(entry.cells, "cell_key")))
        rows["catalog"] = self._descriptions(entry)
        for column, keys in own.items():
            self.keys[column] |= keys
        return rows

    def _descriptions(self, entry: _Entry) -> pa.Table:
        """Return the descriptions of the submission's own method and, of an attack, of the scenarios it makes."""
        table = entry.submission.tables["catalog"]
        wanted = {(entry.rung.kind, entry.submission.id)}
        if entry.submission.previewed == ORIGIN_LOCAL:  # a pipeline of own methods: each part is one's own
            parts = entry.submission.id.split("+") if entry.rung.kind == KIND_DEFENSE else []
            wanted |= {(KIND_DEFENSE, part) for part in parts}
        if entry.rung.kind == KIND_ATTACK:
            wanted |= {("scenario", name) for name in _values(entry.cells, "scenario")}
        wanted -= self.described
        self.described |= wanted
        names = zip(_values(table, "kind"), _values(table, "id"), strict=True)
        return table.filter(pa.array([name in wanted for name in names], pa.bool_()))


_KEY = {
    "rounds": "training_key",
    "responses": "response_key",
    "verdicts": "response_key",
    "likelihoods": "response_key",
    "task_scores": "response_key",
    "probes": "probe_set",
    "inputs": "training_key",
}
"""The key by which rows of a table belong to a cell."""


def _check_sizes(tables: Mapping[str, pa.Table], where: str) -> None:
    texts: list[tuple[str, list[Any]]] = [
        (column, _values(tables["catalog"], column)) for column in ("title", "description", "paper", "settings")
    ]
    texts.append(("reason", _values(tables["cells"], "reason")))
    texts.append(("flags", [flag for flags in tables["cells"].column("flags").to_pylist() for flag in flags]))
    for column, values in texts:
        longest = max((len(value) for value in values), default=0)
        if longest > LONGEST_TEXT:
            raise FedSafetyError(
                f"{where} has a text of {longest} characters in column {column!r}; at most {LONGEST_TEXT} are shown"
            )
    for name in ("cells", "task_scores"):
        for field in tables[name].schema:
            if pa.types.is_floating(field.type) or pa.types.is_integer(field.type):
                ends = pc.min_max(tables[name].column(field.name)).as_py()
                largest = max(abs(ends["min"] or 0), abs(ends["max"] or 0))
                if largest > LARGEST_NUMBER:
                    raise FedSafetyError(
                        f"{where} has the number {largest:g} in column {field.name!r}; at most {LARGEST_NUMBER:g} is "
                        f"possible"
                    )


def _bases(catalog: pa.Table) -> dict[str, str]:
    """Return by scenario the one that it takes over with another attack; empty where it names none."""
    found = {}
    for row in catalog.filter(pc.equal(_text(catalog, "kind"), "scenario")).to_pylist():
        try:
            settings = json.loads(row["settings"] or "{}")
        except ValueError:
            settings = {}
        base = settings.get("base", "") if isinstance(settings, dict) else ""
        found[row["id"]] = base if isinstance(base, str) else ""
    return found


def _joined(name: str, parts: Sequence[pa.Table]) -> pa.Table:
    empty = TABLES[name].empty_table().replace_schema_metadata(None).drop_columns(list(ADDED.get(name, ())))
    return pa.concat_tables([empty, *parts], promote_options="default").unify_dictionaries()


def _with(table: pa.Table, column: str, wanted: Collection[str]) -> pa.Table:
    return table.filter(pc.is_in(_text(table, column), pa.array(sorted(wanted), pa.string())))


def _text(table: pa.Table, column: str) -> pa.ChunkedArray:
    return table.column(column).cast(pa.string())


def _values(table: pa.Table, column: str) -> list[str]:
    values: list[str] = _text(table, column).to_pylist()
    return values
