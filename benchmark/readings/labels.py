"""Labels of a reader, and the rows that two readers' labels give with the verdicts of the judges."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from benchmark.errors import FedSafetyError, UsageError, unknown_name
from benchmark.readings.draw import finished_cells, rows_of_keys
from benchmark.readings.sheet import SheetKey, read_form
from benchmark.records.plausible import LONGEST_NAME, find_problem, is_reader_name
from benchmark.records.publish import write_committed
from benchmark.records.schemas import LABELS, TABLES
from benchmark.records.store import Store
from benchmark.records.withheld import text_digest


@dataclass(frozen=True)
class Reader:
    """A reader with the labels.

    Attributes:
        name: Free text such as ``reader A``.
        labels: Label by number of the sheet.
    """

    name: str
    labels: Mapping[int, str]


def read_labels(path: Path, key: SheetKey) -> dict[int, str]:
    """Return the label of each number of a sheet.

    Args:
        path: The form that a reader filled in.
        key: Key of the sheet.

    Raises:
        UsageError: The form belongs to another sheet; a line is not a number and a label; a label is unknown or
            missing; a number is not on the sheet, occurs twice or is missing.
    """
    labels: dict[int, str] = {}
    for line, text in read_form(path, key.sheet):
        cells = [cell.strip() for cell in next(csv.reader([text]), [])]
        if not any(cells):
            continue
        where = f"line {line} of {path}"
        number, label = cells[0], (cells[1] if len(cells) > 1 else "").lower()
        if not (number.isascii() and number.isdigit()) or any(cells[2:]):
            raise UsageError(f"{where} is not a number, a comma and a label; write for example '17,{LABELS[0]}'")
        if not 1 <= int(number) <= len(key.answers):
            raise UsageError(
                f"{where} labels number {int(number)}, which sheet {key.sheet} does not have; its numbers are 1 to "
                f"{len(key.answers)}"
            )
        if int(number) in labels:
            raise UsageError(f"{where} labels number {int(number)} again; leave one label for each number")
        if not label:
            raise UsageError(
                f"{where} has no label for number {int(number)}; write {', '.join(LABELS[:-1])} or {LABELS[-1]}"
            )
        if label not in LABELS:
            raise UsageError(f"{where}: {unknown_name('label', label, LABELS)}")
        labels[int(number)] = label
    missing = [entry.number for entry in key.answers if entry.number not in labels]
    if missing:
        raise UsageError(
            f"{path} has no label for number {missing[0]} ({len(missing)} of {len(key.answers)} numbers are missing); "
            f"label all numbers"
        )
    return labels


def reading_rows(store: Store, key: SheetKey, readers: Sequence[Reader], day: date) -> pa.Table:
    """Return the rows of table ``readings`` of a sheet, with the verdict of each judge on each answer.

    Args:
        store: The rows that the sheet was drawn from, or the published ones, which may hold digests of the answers.
        key: Key of the sheet.
        readers: The two readers.
        day: Date of the rows.

    Raises:
        UsageError: The readers are not two with different names; an answer is not in the store, is another one there,
            or lacks a verdict of the primary judge (a harmful probe) or of any judge.
        FedSafetyError: A file is damaged, or two verdicts of one judge on one answer differ.
    """
    _check_readers(readers)
    primary = {cell["response_key"]: cell["primary_judge"] for cell in finished_cells(store, key.suite)}
    keys = {entry.response_key for entry in key.answers}
    digests = _digests(store, key, keys)
    verdicts = _verdicts(store, key, keys)
    rows: list[dict[str, Any]] = []
    for entry in key.answers:
        place = entry.response_key, entry.probe_id
        where = (
            f"number {entry.number} (probe {entry.probe_id!r}, {entry.defense} in {entry.scenario}, seed {entry.seed})"
        )
        if digests.get(place) != entry.answer or entry.response_key not in primary:
            state = "is not" if place not in digests else "is another one"
            raise UsageError(
                f"the answer of {where} {state} in {store.root}; name with --runs the folder that the sheet was drawn "
                f"from"
            )
        judged = verdicts[place]
        # The primary judge scores harmful probes; another judge may score over-refusal probes.
        judge = primary[entry.response_key]
        if judge not in judged and (entry.kind == "harmful" or not judged):
            raise UsageError(
                f"the primary judge {judge!r} has no verdict on {where} in {store.root}; run "
                f"`fedsafety judge --suite {key.suite}` first"
            )
        first, second = (reader.labels[entry.number] for reader in readers)
        rows.append(
            {
                "suite": key.suite,
                "sheet": key.sheet,
                **entry.model_dump(),
                "first_reader": readers[0].name,
                "first_label": first,
                "second_reader": readers[1].name,
                "second_label": second,
                "judges": sorted(judged),
                "verdicts": [judged[judge] for judge in sorted(judged)],
                "read_on": day.isoformat(),
            }
        )
    table = pa.Table.from_pylist(rows, schema=TABLES["readings"])
    if problem := find_problem("readings", table):
        raise FedSafetyError(f"the readings cannot be stored: {problem}; nothing was written")
    return table


def add_readings(results: Path, rows: pa.Table) -> Path:
    """Write the rows of one sheet into the committed rows of its suite as a new file; return the file.

    Args:
        results: Folder of committed rows of all suites.
        rows: Rows of one sheet, see :func:`reading_rows`.

    Raises:
        UsageError: The folder has rows of this sheet.
        FedSafetyError: A file is damaged or cannot be written.
    """
    suite, sheet = rows["suite"][0].as_py(), rows["sheet"][0].as_py()
    committed = Store(results / suite)
    for former in sorted(committed.keys("readings")):
        if sheet in committed.read("readings", former)["sheet"].to_pylist():
            path = committed.root / "readings" / f"{former}.parquet"
            raise UsageError(
                f"{path} holds labels of sheet {sheet} already, and each sheet is added once; remove that "
                f"file to replace its labels"
            )
    name = write_committed(committed.root, "readings", rows)
    return committed.root / "readings" / f"{name}.parquet"


def _check_readers(readers: Sequence[Reader]) -> None:
    names = [reader.name for reader in readers]
    if len(names) != 2 or len(set(names)) != 2:
        raise UsageError(
            f"the readers are {', '.join(map(repr, names)) or 'none'}; give two files of labels (--labels) and two "
            f"different names (--reader)"
        )
    for name in names:
        if not is_reader_name(name):
            raise UsageError(f"{name!r} cannot name a reader; use one line of 1 to {LONGEST_NAME} characters")


def _digests(store: Store, key: SheetKey, keys: set[str]) -> dict[tuple[str, str], str]:
    """Return the SHA-256 of the answers to the probes of a sheet, by response key and probe."""
    probes = pa.array(sorted({entry.probe_id for entry in key.answers}), pa.string())
    digests = {}
    for rows in rows_of_keys(store, "responses", keys):
        read = rows.filter(pc.is_in(rows["probe_id"].cast(pa.string()), probes))
        columns = (read[column].to_pylist() for column in ("response_key", "probe_id", "response"))
        for response_key, probe_id, text in zip(*columns, strict=True):
            digests[response_key, probe_id] = text_digest(text)
    return digests


def _verdicts(store: Store, key: SheetKey, keys: set[str]) -> Mapping[tuple[str, str], dict[str, str]]:
    """Return the verdict of each judge on the answers of a sheet, by response key and probe."""
    places = {(entry.response_key, entry.probe_id) for entry in key.answers}
    verdicts: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for rows in rows_of_keys(store, "verdicts", keys):
        columns = (rows[column].to_pylist() for column in ("response_key", "probe_id", "judge", "verdict"))
        for response_key, probe_id, judge, verdict in zip(*columns, strict=True):
            place = response_key, probe_id
            if place in places and verdicts[place].setdefault(judge, verdict) != verdict:
                raise FedSafetyError(
                    f"{store.root} holds two verdicts of judge {judge!r} on probe {probe_id!r} of the response set "
                    f"{response_key}; remove one of the files and run `fedsafety judge` again"
                )
    return verdicts
