"""The local store: append-only Parquet, one file per key and table, written atomically.

A file is whole or absent, even if the process is killed while it writes. A finished file is never changed, except that
the row of a failed cell is replaced by the row of its next try. The store does not repair, merge or derive rows.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError

from benchmark.errors import FedSafetyError, StorageError, first_line
from benchmark.records.identity import find_foreign_probe_set
from benchmark.records.schemas import ADDED, READABLE_VERSIONS, TABLES

SCRATCH = ".writing-"
"""Prefix of the names of half-written files and folders."""


_A_FILE = "{} is a file where a folder of rows belongs; move it away and run again"


class Store:
    """A folder of tables, each a folder of Parquet files named by key.

    Args:
        root: The folder; made on first write.

    Raises:
        FedSafetyError: ``root`` exists and is not a folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        if root.exists() and not root.is_dir():
            raise FedSafetyError(f"the results folder {root} is a file; give another folder with --runs")

    def has(self, table: str, key: str) -> bool:
        """Whether the file of ``key`` exists."""
        return self._path(table, key).exists()

    def keys(self, table: str) -> set[str]:
        """Return the keys of all files of a table."""
        return {path.stem for path in row_files(self.root / table)}

    def write(self, table: str, key: str, rows: Iterable[Mapping[str, Any]] | pa.Table) -> None:
        """Write the rows of ``key`` in one step.

        Args:
            table: Table name.
            key: Content-derived key.
            rows: Mappings with exactly the schema's columns, or an Arrow table.

        Raises:
            FedSafetyError: The rows do not fit the schema, or the folder cannot be written.
        """
        schema = TABLES[table]
        if not isinstance(rows, pa.Table):
            rows = list(rows)
            for row in rows:
                if set(row) != set(schema.names):
                    odd = sorted(set(row) ^ set(schema.names))[0]
                    raise FedSafetyError(
                        f"a row of table {table!r} and its schema differ in the column {odd!r}; "
                        f"a row has exactly the columns of the schema"
                    )
        rows = _fitted(rows, table)
        with replacing(self._path(table, key)) as scratch:
            pq.write_table(rows, scratch, compression="zstd", write_page_checksum=True)

    def read(self, table: str, key: str) -> pa.Table:
        """Return the rows of ``key``.

        Raises:
            FedSafetyError: The file is missing, damaged, or of another schema version.
        """
        return read_table(self._path(table, key), table)

    def read_all(self, table: str) -> pa.Table:
        """Return the rows of all keys, in key order."""
        tables = [self.read(table, key) for key in sorted(self.keys(table))]
        return pa.concat_tables(tables).unify_dictionaries() if tables else TABLES[table].empty_table()

    def written_at(self, table: str, key: str) -> int:
        """Return when the file of ``key`` was written, in nanoseconds."""
        return self._path(table, key).stat().st_mtime_ns

    def remove(self, table: str, key: str) -> None:
        """Remove the file of ``key`` if it is there."""
        self._path(table, key).unlink(missing_ok=True)

    def adapter_folder(self, key: str) -> Path:
        """Return the folder of an adapter in PEFT format; it holds ``run.json`` once it is complete."""
        return self.root / "adapters" / key

    def write_json(self, path: Path, content: Any) -> None:
        """Write a JSON file in one step."""
        with replacing(path) as scratch:
            scratch.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")

    def clear_scratch(self) -> int:
        """Remove half-written files and folders of killed runs; return their number."""
        stale = [path for path in sorted(self.root.rglob(f"{SCRATCH}*")) if not _writer_lives(path)]
        for path in stale:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                with writing(path):
                    path.unlink(missing_ok=True)
        return len(stale)

    def _path(self, table: str, key: str) -> Path:
        return self.root / table / f"{key}.parquet"


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an error of the operating system while ``path`` is written into a :class:`StorageError`."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        if isinstance(error, (FileExistsError, NotADirectoryError)):
            raise StorageError(f"cannot write {path}: {_A_FILE.format(path.parent)}") from error
        reason = getattr(error, "strerror", None) or error
        raise StorageError(
            f"cannot write {path}: {reason}; free space or choose another folder with --runs. "
            f"Everything finished before is kept"
        ) from error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a scratch path that takes the place of ``path`` if all goes well and vanishes if not.

    Raises:
        StorageError: The scratch file cannot be written.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = scratch_beside(path)
        try:
            yield scratch
            os.replace(scratch, path)
        finally:
            scratch.unlink(missing_ok=True)


def scratch_beside(path: Path) -> Path:
    """Return a path in the folder of ``path`` that readers ignore. Its name holds the number of this process."""
    return path.parent / f"{SCRATCH}{os.getpid()}-{path.name}"


def _writer_lives(scratch: Path) -> bool:
    """Whether the process in the name of a scratch path is running. Another run may share the folder."""
    number = scratch.name.removeprefix(SCRATCH).partition("-")[0]
    if not number.isdigit() or int(number) == os.getpid():
        return False
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _fitted(rows: list[Mapping[str, Any]] | pa.Table, table: str) -> pa.Table:
    """Return ``rows`` as a table of the schema's types.

    Raises:
        FedSafetyError: A value has the wrong type, is out of range, or is missing where the schema needs one.
    """
    schema = TABLES[table]
    try:
        if not isinstance(rows, pa.Table):
            rows = pa.Table.from_pylist(rows, schema=schema)
        return rows.cast(schema)
    except (pa.ArrowException, OverflowError, TypeError, ValueError) as error:
        raise FedSafetyError(f"a row does not fit the schema of table {table!r}: {error}") from error


def read_table(path: Path, table: str) -> pa.Table:
    """Return the rows of one Parquet file of ``table``.

    Raises:
        FedSafetyError: The file is missing, damaged, holds another table, or has another schema version.
    """
    try:
        with open_rows(path) as file:
            check_schema(file.schema_arrow, table, path)
            rows = file.read()
        rows.validate(full=True)
        rows = with_added_columns(rows, table).cast(TABLES[table])
    except FileNotFoundError as error:
        raise FedSafetyError(f"{path} is missing; run the command that makes it again") from error
    except UNREADABLE as error:
        raise FedSafetyError(
            f"{path} is damaged ({first_line(error)}); delete it and run again to remake it"
        ) from error
    if table == "probes" and (problem := find_foreign_probe_set(rows)):
        raise FedSafetyError(f"{path} cannot be right: {problem}; delete it and run again to remake it")
    return rows


def with_added_columns(rows: pa.Table, table: str) -> pa.Table:
    """Return rows of any readable schema version with the columns that later versions added, empty where they lack."""
    for name in ADDED.get(table, ()):
        if name not in rows.column_names:
            rows = rows.append_column(TABLES[table].field(name), pa.nulls(len(rows), TABLES[table].field(name).type))
    return rows


def row_files(folder: Path, *, below: bool = False) -> list[Path]:
    """Return the files of rows in ``folder``, sorted, without those that a running command is writing.

    Args:
        folder: The folder, which may be missing.
        below: Whether to look into the folders inside it, at any depth.

    Raises:
        FedSafetyError: The ending of a file has capital letters, so that some file systems would pass it over; or
            ``folder`` is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise FedSafetyError(_A_FILE.format(folder))
    found = folder.rglob("*") if below else folder.glob("*")
    paths = [path for path in found if path.suffix.lower() == ".parquet" and not path.name.startswith(SCRATCH)]
    if odd := min((path for path in paths if path.suffix != ".parquet"), default=None):
        raise FedSafetyError(f"{str(odd)!r} ends in {odd.suffix}; rename it so that it ends in .parquet")
    return sorted(paths)


UNREADABLE = (OSError, pa.ArrowException, ValueError)
"""What pyarrow raises for a damaged file. A ``UnicodeDecodeError`` is a ValueError."""


def open_rows(path: Path) -> pq.ParquetFile:
    """Return an open Parquet file; close it after use. Where its pages have checksums, reading verifies them.

    Raises:
        FedSafetyError: ``path`` is a folder.
        OSError: The file is missing or damaged; damage raises the others of :data:`UNREADABLE` as well.
    """
    if path.is_dir():
        raise FedSafetyError(f"{path} is a folder where a file of rows belongs; move it away and run again")
    return pq.ParquetFile(path, page_checksum_verification=True)


def check_schema(schema: pa.Schema, table: str, path: Path) -> None:
    """Refuse a file of another table or schema version.

    Raises:
        FedSafetyError: The file has another table or schema version.
    """
    metadata = schema.metadata or {}
    version = metadata.get(b"fedsafety.schema_version", b"none").decode(errors="replace")
    name = metadata.get(b"fedsafety.table", b"none").decode(errors="replace")
    if version not in READABLE_VERSIONS:
        raise FedSafetyError(
            f"{path} has schema version {version}, this program reads versions {' and '.join(READABLE_VERSIONS)}; "
            f"use the release that wrote it, or move it away and run again"
        )
    if name != table:
        raise FedSafetyError(f"{path} holds table {name!r}, not {table!r}; move it to its folder")
