"""A data file or folder as a suite would read it, for a look before a run."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Final

from benchmark.errors import FedSafetyError, UsageError
from tasks.hub.columns import Reader
from tasks.hub.datasets import local_records, nothing_left
from tasks.hub.files import Records
from tasks.hub.settings import DatasetSource
from tasks.hub.sieve import Sieve, Steps

_FIRST: Final = 3
"""Number of rows that are shown."""
_SHOWN: Final = ("id", "instruction", "response", "label")
_COMMON: Final = {
    "conversation": ("conversation", "conversations", "messages", "dialogue", "dialog"),
    "instruction": ("instruction", "prompt", "question", "query", "goal", "problem"),
    "response": ("response", "output", "answer", "completion", "target", "solution"),
}
"""Our name of a column → names of columns that public data sets give it."""
_NAMES_OF: Final = {"pairs": ("instruction", "response"), "chat": ("conversation",), "prompts": ("instruction",)}
"""Form of the rows → our names of the columns that it needs, in the order in which forms are tried."""
_FILTERS_TRIED: Final[tuple[tuple[str, ...], ...]] = ((), ("with_text",))


@dataclass
class DataReport:
    """The content of a data file or folder, as far as it could be read.

    Attributes:
        path: File or folder.
        files: Files that are read, relative to the folder.
        left_out: Files of the folder that are not read, each with the reason.
        columns: Columns of the files.
        mapping: Our name of a column → place that is read for it.
        unread: Columns that neither a name nor a condition or filter reads.
        steps: Number of rows read, and number of rows after each condition and filter.
        dropped: Condition or filter → reason → number of rows that it leaves out.
        first_rows: First rows that remain: our name of a column → text.
        emptied: Our name of a column → placeholder → number of cells in which it was read as empty.
        doubtful: Our name of a column → text that looks like a placeholder → number of cells in which it was kept.
        advice: Settings that fit the columns, as options of the command; empty where the settings fit.
        error: Reason for which a suite would refuse the data, or ``None``.
    """

    path: str
    files: tuple[str, ...] = ()
    left_out: tuple[tuple[str, str], ...] = ()
    columns: tuple[str, ...] = ()
    mapping: dict[str, str] = field(default_factory=dict)
    unread: tuple[str, ...] = ()
    steps: Steps = ()
    dropped: dict[str, dict[str, int]] = field(default_factory=dict)
    first_rows: list[dict[str, str]] = field(default_factory=list)
    emptied: dict[str, dict[str, int]] = field(default_factory=dict)
    doubtful: dict[str, dict[str, int]] = field(default_factory=dict)
    advice: str = ""
    error: FedSafetyError | None = None


def inspect_data(path: Path, source: DatasetSource) -> DataReport:
    """Return a report on the data at ``path``, read with the settings of ``source``.

    Where a suite would refuse the data, the report ends there and holds the error. Order, offset and limit of the
    source are not applied.
    """
    report = DataReport(str(path))
    records = Records(str(path), (), lambda _: iter(()))
    try:
        if not os.path.exists(path):  # unlike Path.exists, it raises for no name, however long
            raise UsageError(f"there is no file or folder {path}; name one that exists")
        records = local_records(source, path)
        _describe_files(report, path, records)
        _read(report, Reader(source, records))
    except FedSafetyError as error:
        report.error = error
    if report.columns and not report.mapping:
        report.advice = _advice(records, source)
    return report


def _advice(records: Records, source: DatasetSource) -> str:
    """Return the options with which all rows can be read, from the common names; empty if there are none."""
    found = {name: next((each for each in names if each in records.columns), "") for name, names in _COMMON.items()}
    for (form, names), filters in product(_NAMES_OF.items(), _FILTERS_TRIED):
        columns = {name: found[name] for name in names if found[name]}
        if "input" in records.columns and form != "chat":
            columns["input"] = "input"
        settings = {"format": form, "columns": columns, "where": {}, "filters": filters}
        try:
            count = sum(1 for _ in Sieve(Reader(source.model_copy(update=settings), records)).rows())
        except FedSafetyError:
            continue
        if not count:
            continue
        options = [f"--column {name}={column}" for name, column in columns.items() if name == "input" or name != column]
        options += [f"--filter {name}" for name in filters]
        return " ".join([*([] if form == "pairs" else [f"--format {form}"]), *options])
    return ""


def _describe_files(report: DataReport, path: Path, records: Records) -> None:
    folder = path if path.is_dir() else path.parent
    if records.files is not None:
        report.files = tuple(file.relative_to(folder).as_posix() for file in records.files.read)
        report.left_out = tuple((file.relative_to(folder).as_posix(), why) for file, why in records.files.left_out)
    report.columns = records.columns


def _read(report: DataReport, reader: Reader) -> None:
    report.mapping = reader.mapping
    report.unread = tuple(column for column in report.columns if column not in reader.columns)
    sieve = Sieve(reader, explain=True)
    left = 0
    try:
        for row_id, instruction, response, label, *_ in sieve.rows():
            left += 1
            if left <= _FIRST:
                cells = zip(_SHOWN, (row_id, instruction, response, label), strict=True)
                report.first_rows.append({name: text for name, text in cells if text})
    finally:
        report.steps = sieve.steps
        report.dropped = {rule: _by_count(reasons) for rule, reasons in sieve.dropped.items()}
        _describe_placeholders(report, sieve)
    if not left:
        raise UsageError(nothing_left(reader.source, report.path, report.steps))


def _describe_placeholders(report: DataReport, sieve: Sieve) -> None:
    for place, is_emptied in ((report.emptied, True), (report.doubtful, False)):
        counts: dict[str, Counter[str]] = {}
        for (column, text, was_emptied), cells in sieve.placeholders.items():
            if was_emptied is is_emptied:
                counts.setdefault(column, Counter())[text] += cells
        place.update({column: _by_count(texts) for column, texts in sorted(counts.items())})


def _by_count(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
