"""Readers of local data files: CSV, TSV, JSON, JSONL, Parquet, and text with one prompt in each line."""

from __future__ import annotations

import csv
import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmark.errors import FedSafetyError, UsageError, first_line
from tasks.hub.conversions import AS_COMMAS, WAYS, foreign_content
from tasks.hub.digests import files_sha256
from tasks.hub.folders import FolderFiles, split_files
from tasks.hub.values import kind_of

_BATCH: Final = 1024
_NAMES: Final = 5
"""Most names that an error lists."""
_SHORT: Final = {pa.float16(): (np.float16, 2**11), pa.float32(): (np.float32, 2**24)}
"""Short float → its type in NumPy, and the whole number from which on it may have lost digits."""
_SLICE: Final = re.compile(r"[\[\]+]")
_QUOTED: Final = re.compile(r'".*"', re.DOTALL)
_SEPARATORS: Final = ";\t|"
"""Marks that other programs write between the fields of a table."""


@dataclass(frozen=True)
class Records:
    """Rows in the form of a source.

    Attributes:
        name: File or repository, for messages.
        columns: Names of all columns.
        read: ``read(columns)`` yields the rows in order, each with those of ``columns`` that it has.
        files: Files that hold the rows, and those that were left out beside them; ``None`` for rows of the hub.
        place: Returns file and row, from 1, of a row that was read, by its number; ``None`` for one file.
    """

    name: str
    columns: tuple[str, ...]
    read: Callable[[Sequence[str]], Iterator[dict[str, Any]]]
    files: FolderFiles | None = None
    place: Callable[[int], str] | None = None

    def place_of(self, number: int) -> str:
        """Return file and row of the row ``number``, for messages."""
        return self.place(number) if self.place else f"{self.name}, row {number}"


def data_files(path: Path, split: str = "", config: str = "") -> FolderFiles:
    """Return the file ``path``, or the data files of the folder ``path`` for a split, and the files left out.

    Raises:
        UsageError: The folder holds no data file, or files of several formats, or its splits cannot be told apart; the
            path is a pipe or a device; or the split is a slice.
    """
    if _SLICE.search(split):
        raise UsageError(
            f"split {split!r} is a slice or a sum of splits, and local files have neither; name one split, and use "
            f"offset and limit"
        )
    if not path.is_dir():
        if path.exists() and not path.is_file():
            raise UsageError(
                f"{path} is no file but a pipe or a device; write its content to a file, and name that file"
            )
        return FolderFiles((path,), ())
    files = split_files(path, split, config, SUFFIXES)
    examples = {file.suffix.lower(): file.name for file in files.read}
    if len(examples) != 1:
        found = ", ".join(f"{suffix} ({name})" for suffix, name in sorted(examples.items())) or "none"
        raise UsageError(f"{path} must hold data files of one format ({', '.join(SUFFIXES)}); it holds {found}")
    return files


def data_digest(path: Path, split: str = "", config: str = "") -> str:
    """Return the SHA-256 over the data file, or the data files of the folder, ``path``."""
    with _readable(path):
        return files_sha256(path if path.is_dir() else path.parent, data_files(path, split, config).read)


def open_records(path: Path, text_column: str, split: str = "", config: str = "") -> Records:
    """Return the rows of a data file or of a folder of data files.

    Args:
        path: File or folder to read. The suffix of a file names the format.
        text_column: Name of the single column of a text file.
        split: Split whose files of a folder are read; empty for all.
        config: Configuration whose subfolder is read, where there is one.

    Raises:
        UsageError: The format is unknown.
        FedSafetyError: A file's content does not match its suffix.
    """
    files = data_files(path, split, config)
    parts = [_open_file(file, text_column) for file in files.read]
    if len(parts) == 1:
        return replace(parts[0], files=files)
    columns = tuple(dict.fromkeys(column for part in parts for column in part.columns))

    starts: list[tuple[int, str]] = []

    def read(names: Sequence[str]) -> Iterator[dict[str, Any]]:
        starts.clear()
        number = 0
        for part in parts:
            # Objects leave out a key that is empty; a table without the column is another table.
            lacking = [name for name in names if name not in part.columns]
            if lacking and part.name.lower().endswith((".csv", ".parquet", ".tsv")):
                raise FedSafetyError(
                    f"{part.name} has no column {lacking[0]!r}, as other files of {path} have; mend it"
                )
            starts.append((number, part.name))
            for row in part.read(names):
                number += 1
                yield row

    def place(number: int) -> str:
        start, name = next((start, name) for start, name in reversed(starts) if start < number)
        return f"{name}, row {number - start}"

    return Records(str(path), columns, read, files, place)


def _open_file(path: Path, text_column: str) -> Records:
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        way = f"; {WAYS[suffix]}" if suffix in WAYS else ""
        raise UsageError(f"{path} has no known format; a data file ends in {', '.join(SUFFIXES)}{way}")
    with _readable(path):
        if content := foreign_content(path):
            raise FedSafetyError(f"{path} cannot be read as {suffix}: it is {content}")
        return SUFFIXES[suffix](path, text_column)


def _csv(path: Path, _: str) -> Records:
    return _table(path, _csv_rows, "quote fields that hold commas or line breaks")


def _tsv(path: Path, _: str) -> Records:
    return _table(path, _tsv_rows, "a tab separates fields, and no field holds one")


def _table(path: Path, split: Callable[[Iterable[str]], Iterator[list[str]]], rule: str) -> Records:
    """Open a table with one line of headings. ``split`` yields the fields of each row, headings first."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        columns = tuple(name.strip() for name in next(split(file), ()))
    _check_headings(path, columns)
    if split is _csv_rows:
        _check_separator(path, columns)

    def read(names: Sequence[str]) -> Iterator[dict[str, Any]]:
        with _readable(path), _long_fields(), path.open(newline="", encoding="utf-8-sig") as file:
            for number, row in enumerate(islice(split(file), 1, None), start=1):
                if len(row) != len(columns):
                    raise FedSafetyError(
                        f"{path}, row {number}: {len(row)} fields under {len(columns)} columns; {rule}"
                    )
                if split is _tsv_rows and (quoted := next((field for field in row if _QUOTED.fullmatch(field)), "")):
                    raise FedSafetyError(
                        f"{path}, row {number}: the field {quoted:.40} is quoted, which leaves open whether the quotes "
                        f"belong to the text; {AS_COMMAS}"
                    )
                yield _some(dict(zip(columns, row, strict=True)), names)

    return Records(str(path), columns, read)


def _csv_rows(file: Iterable[str]) -> Iterator[list[str]]:
    """Yield the lines with fields. The field begins at its quote: spreadsheets and people write a blank before it."""
    return (row for row in csv.reader(file, strict=True, skipinitialspace=True) if row)


def _tsv_rows(file: Iterable[str]) -> Iterator[list[str]]:
    """Yield the lines with fields, in which quotes are text, as GLUE writes its tables."""
    return (row for row in csv.reader(file, strict=True, delimiter="\t", quoting=csv.QUOTE_NONE) if row)


def _jsonl(path: Path, _: str) -> Records:
    def rows() -> Iterator[dict[str, Any]]:
        number = 0
        with path.open(encoding="utf-8-sig") as file:
            for line in file:
                text = line.strip("\ufeff \t\r\n")
                if not text:
                    continue
                number += 1
                if text.startswith("[") and number == 1 and _is_json(path):
                    raise FedSafetyError(f"{path} begins with a list, as a JSON file does; name it .json")
                try:
                    row = _parsed(text)
                except ValueError as error:
                    raise FedSafetyError(f"{path}, row {number}: no JSON ({error}); write one object a line") from error
                yield _object(path, number, row)

    def read(names: Sequence[str]) -> Iterator[dict[str, Any]]:
        with _readable(path):
            for row in rows():
                yield _some(row, names)

    return Records(str(path), tuple(dict.fromkeys(name for row in rows() for name in row)), read)


def _is_json(path: Path) -> bool:
    try:
        _parsed(path.read_text(encoding="utf-8-sig"))
    except ValueError:
        return False
    return True


def _json(path: Path, _: str) -> Records:
    """Open a list of objects, an object of lists, or JSON Lines. Lists without any text are not columns."""
    text = path.read_text(encoding="utf-8-sig")
    try:
        content = _parsed(text)
    except ValueError as error:
        if isinstance(error, json.JSONDecodeError) and error.msg == "Extra data" and text.lstrip().startswith("{"):
            return _jsonl(path, "")
        raise FedSafetyError(f"{path} is no JSON: {error}; mend or replace it") from error
    if isinstance(content, dict) and content and all(isinstance(values, list) for values in content.values()):
        if any(content.values()) and all(isinstance(row, dict) for values in content.values() for row in values):
            raise FedSafetyError(
                f"{path} holds lists of objects under {_some_names(content)}; write each list as a file of its own"
            )
        longest = max(map(len, content.values()))
        content = {name: values for name, values in content.items() if len(values) == longest or any(values)}
        if len({*map(len, content.values())}) > 1:
            lengths = ", ".join(f"{name} {len(values)}" for name, values in content.items())
            raise FedSafetyError(
                f"{path} holds lists of different lengths ({lengths}); mend it, or write a list of objects"
            )
        content = [dict(zip(content, row, strict=True)) for row in zip(*content.values(), strict=True)]
    if not isinstance(content, list):
        found = f"an object with {_some_names(content)}" if isinstance(content, dict) else kind_of(content)
        raise FedSafetyError(
            f"{path} must hold a list of objects, or one object of lists, and it holds {found}; if it holds one object "
            f"a line, name it .jsonl, else write its rows as a list"
        )
    table = [_object(path, number, row) for number, row in enumerate(content, start=1)]

    def read(names: Sequence[str]) -> Iterator[dict[str, Any]]:
        return (_some(row, names) for row in table)

    return Records(str(path), tuple(dict.fromkeys(name for row in table for name in row)), read)


def _parquet(path: Path, _: str) -> Records:
    columns = tuple(pq.read_schema(path).names)
    _check_headings(path, columns)

    def read(names: Sequence[str]) -> Iterator[dict[str, Any]]:
        with _readable(path), pq.ParquetFile(path) as file:
            for batch in file.iter_batches(_BATCH, columns=[name for name in columns if name in names]):
                yield from _rows(batch)

    return Records(str(path), columns, read)


def _rows(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """Return the rows of a batch.

    Raises:
        ArrowInvalid: A value has no counterpart in Python, for example a time in an unknown zone, or is a number whose
            last digits a short float may have lost.
    """
    try:
        rows: list[dict[str, Any]] = batch.to_pylist(maps_as_pydicts="strict")
    except (KeyError, OverflowError, ValueError) as error:
        raise pa.ArrowInvalid(f"a value cannot be read ({type(error).__name__}: {first_line(error)})") from error
    short = {field.name: field.type for field in batch.schema if "float" in str(field.type)}
    for row in rows:
        row.update({name: _shortest(row[name], kind) for name, kind in short.items()})
    return rows


def _shortest(value: Any, kind: pa.DataType) -> Any:
    """Return a value of the type ``kind``, in which each short float has the shortest digits that give the same value.

    These are 0.1, where 64 bits of the same value would show 0.10000000149011612.

    Raises:
        ArrowInvalid: A short float is so large that its last digits may be lost.
    """
    if isinstance(value, list):
        return [_shortest(inner, kind.value_type) for inner in value]
    if isinstance(value, dict):
        is_map = pa.types.is_map(kind)
        return {
            name: _shortest(inner, kind.item_type if is_map else kind.field(name).type) for name, inner in value.items()
        }
    if value is None or kind not in _SHORT:
        return value
    number, limit = _SHORT[kind]
    if math.isfinite(value) and abs(value) >= limit:
        raise pa.ArrowInvalid(
            f"the number {value} has the type {kind}, which may have lost its last digits; write it as text"
        )
    return float(str(number(value)))


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
    ".tsv": _tsv,
    ".txt": _text,
}
"""Suffix of a data file → function that opens the file."""


def _object(path: Path, number: int, row: object) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise FedSafetyError(f"{path}, row {number}: {kind_of(row)}; every row must be an object")
    return row


def _some_names(row: dict[str, Any]) -> str:
    return ", ".join([*row][:_NAMES]) + (" and more" if len(row) > _NAMES else "") if row else "no keys"


def _parsed(text: str) -> Any:
    """Return the content of a JSON text.

    Raises:
        ValueError: The text is no JSON, repeats a key, nests too deep, or holds a number that is too long to be read.
    """
    try:
        return json.loads(text, object_pairs_hook=_unrepeated, parse_int=_integer)
    except RecursionError:
        raise ValueError("lists and objects lie too deep inside each other") from None


def _integer(digits: str) -> int:
    try:
        return int(digits)
    except ValueError:
        raise ValueError(f"a number of {len(digits):,} digits is too long; write it as text") from None


def _some(row: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: row[name] for name in names if name in row}


def _unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) != len(pairs):
        repeated = next(name for place, (name, _) in enumerate(pairs) if name in dict(pairs[:place]))
        raise ValueError(f"the key {repeated!r} stands twice in one object; keep one of them")
    return row


def _check_headings(path: Path, columns: Sequence[str]) -> None:
    """Refuse headings that leave open which column is meant."""
    if repeated := sorted({name for name in columns if name and columns.count(name) > 1}):
        raise FedSafetyError(f"{path} has several columns called {repeated[0]!r}; rename all but one")


def _check_separator(path: Path, columns: Sequence[str]) -> None:
    """Refuse headings that another mark than the comma separates into more columns, and a line that names the mark."""
    if columns and columns[0].startswith("sep="):
        raise FedSafetyError(f"{path} begins with the line sep= of a spreadsheet program; write it without that line")
    heading = ",".join(columns)
    mark = max(_SEPARATORS, key=heading.count)
    if heading.count(mark) > heading.count(","):
        raise FedSafetyError(f"the fields of {path} are separated by {mark!r}; {AS_COMMAS}")


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError as error:
        raise FedSafetyError(
            f"{path} cannot be read as {path.suffix}: its text is not UTF-8; save it as UTF-8"
        ) from error
    except csv.Error as error:
        raise FedSafetyError(
            f"{path} cannot be read as {path.suffix}: {first_line(error)}; quote fields that hold commas, quotes or "
            f"line breaks, and write a quote inside them twice"
        ) from error
    except (OSError, pa.ArrowException) as error:
        kind = f" as {path.suffix}" if path.suffix else ""
        raise FedSafetyError(f"{path} cannot be read{kind}: {first_line(error)}; mend or replace it") from error


@contextmanager
def _long_fields() -> Iterator[None]:
    """Lift the limit on the length of a field, which the ``csv`` module holds for the whole process."""
    limit = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(limit)
