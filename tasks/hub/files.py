"""Readers of local data files: CSV, JSON, JSONL, Parquet, and text with one prompt in each line."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from benchmark.errors import FedSafetyError, UsageError
from tasks.hub.digests import files_sha256

_BATCH: Final = 1024


@dataclass(frozen=True)
class Records:
    """Rows in the form of a source.

    Attributes:
        name: File or repository, for messages.
        columns: Names of all columns.
        read: ``read(columns)`` yields the rows in order, each with those of ``columns`` that it has.
    """

    name: str
    columns: tuple[str, ...]
    read: Callable[[Sequence[str]], Iterator[dict[str, Any]]]


def data_files(path: Path) -> list[Path]:
    """Return the file ``path``, or the data files of the folder ``path`` in the order of their names.

    Raises:
        UsageError: The folder holds no data file, or files of several formats.
    """
    if not path.is_dir():
        return [path]
    files = sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES and file.is_file())
    if len({file.suffix for file in files}) != 1:
        found = ", ".join(sorted({file.suffix for file in files})) or "none"
        raise UsageError(f"{path} must hold data files of one format ({', '.join(SUFFIXES)}); it holds {found}")
    return files


def data_digest(path: Path) -> str:
    """Return the SHA-256 over the data file, or the data files of the folder, ``path``."""
    files = data_files(path)
    return files_sha256(path if path.is_dir() else path.parent, files)


def open_records(path: Path, text_column: str) -> Records:
    """Return the rows of a data file or of a folder of data files.

    Args:
        path: File or folder to read. The suffix of a file names the format.
        text_column: Name of the single column of a text file.

    Raises:
        UsageError: The format is unknown.
        FedSafetyError: A file's content does not match its suffix.
    """
    parts = [_open_file(file, text_column) for file in data_files(path)]
    if len(parts) == 1:
        return parts[0]
    columns = tuple(dict.fromkeys(column for part in parts for column in part.columns))

    def read(names: Sequence[str]) -> Iterator[dict[str, Any]]:
        for part in parts:
            yield from part.read(names)

    return Records(str(path), columns, read)


def _open_file(path: Path, text_column: str) -> Records:
    if path.suffix not in SUFFIXES:
        raise UsageError(f"{path} has no known format; a data file ends in {', '.join(SUFFIXES)}")
    with _readable(path):
        return SUFFIXES[path.suffix](path, text_column)


def _csv(path: Path, _: str) -> Records:
    with path.open(newline="", encoding="utf-8-sig") as file:
        columns = tuple(next(csv.reader(file), ()))

    def read(names: Sequence[str]) -> Iterator[dict[str, Any]]:
        with _readable(path), _long_fields(), path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.reader(file, strict=True)
            next(rows, None)
            for number, row in enumerate((row for row in rows if row), start=1):
                if len(row) != len(columns):
                    raise FedSafetyError(
                        f"{path}, row {number}: {len(row)} fields under {len(columns)} columns; quote fields that hold "
                        f"commas or line breaks"
                    )
                yield _some(dict(zip(columns, row, strict=True)), names)

    return Records(str(path), columns, read)


def _jsonl(path: Path, _: str) -> Records:
    def rows() -> Iterator[dict[str, Any]]:
        number = 0
        with path.open(encoding="utf-8-sig") as file:
            for line in file:
                if not line.strip():
                    continue
                number += 1
                try:
                    row = json.loads(line)
                except ValueError as error:
                    raise FedSafetyError(f"{path}, row {number}: no JSON ({error}); write one object a line") from error
                yield _object(path, number, row)

    def read(names: Sequence[str]) -> Iterator[dict[str, Any]]:
        with _readable(path):
            for row in rows():
                yield _some(row, names)

    return Records(str(path), tuple(dict.fromkeys(name for row in rows() for name in row)), read)


def _json(path: Path, _: str) -> Records:
    """Open a list of objects, or an object of lists. Lists shorter than the longest list are not columns."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise FedSafetyError(f"{path} is no JSON: {error}") from error
    if isinstance(content, dict) and content and all(isinstance(values, list) for values in content.values()):
        longest = max(map(len, content.values()))
        content = {name: values for name, values in content.items() if len(values) == longest}
        content = [dict(zip(content, row, strict=True)) for row in zip(*content.values(), strict=True)]
    if not isinstance(content, list):
        raise FedSafetyError(f"{path} must hold a list of objects, or one object of lists")
    table = [_object(path, number, row) for number, row in enumerate(content, start=1)]

    def read(names: Sequence[str]) -> Iterator[dict[str, Any]]:
        return (_some(row, names) for row in table)

    return Records(str(path), tuple(dict.fromkeys(name for row in table for name in row)), read)


def _parquet(path: Path, _: str) -> Records:
    columns = tuple(pq.read_schema(path).names)

    def read(names: Sequence[str]) -> Iterator[dict[str, Any]]:
        with _readable(path), pq.ParquetFile(path) as file:
            for batch in file.iter_batches(_BATCH, columns=[name for name in columns if name in names]):
                yield from batch.to_pylist()

    return Records(str(path), columns, read)


def _text(path: Path, column: str) -> Records:
    def read(_: Sequence[str]) -> Iterator[dict[str, Any]]:
        with _readable(path), path.open(encoding="utf-8-sig") as file:
            yield from ({column: line.strip()} for line in file if line.strip())

    return Records(str(path), (column,), read)


SUFFIXES: Final[dict[str, Callable[[Path, str], Records]]] = {
    ".csv": _csv,
    ".json": _json,
    ".jsonl": _jsonl,
    ".parquet": _parquet,
    ".txt": _text,
}
"""Suffix of a data file → function that opens the file."""


def _object(path: Path, number: int, row: object) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise FedSafetyError(f"{path}, row {number}: a {type(row).__name__}; every row must be an object")
    return row


def _some(row: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: row[name] for name in names if name in row}


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, UnicodeDecodeError, csv.Error, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise FedSafetyError(f"{path} cannot be read as {path.suffix}: {reason}; mend or replace it") from error


@contextmanager
def _long_fields() -> Iterator[None]:
    """Lift the limit on the length of a field, which the ``csv`` module holds for the whole process."""
    limit = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(limit)
