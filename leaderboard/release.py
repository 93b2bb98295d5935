"""Releases: frozen pages and tables, with a manifest that names the rows behind them.

A release is of the project's own runs: submissions stand on the page until the project has run them itself.

A release holds no rows. They are in the repository at the tag of the release, the manifest has their digest, and
:mod:`leaderboard.reproduce` computes the release from them again. No clock, path or host enters a release, so the same
rows, code and version give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmark import PROTOCOL_VERSION, __version__
from benchmark.errors import UsageError, unwritable
from benchmark.records.schemas import ORIGIN_COMMITTED, SCHEMA_VERSION
from benchmark.records.store import scratch_beside
from leaderboard.page.site import write_pages
from leaderboard.ranking.board import Board
from leaderboard.ranking.boards import boards
from leaderboard.rows.rows import Rows
from leaderboard.view_table import view_csv

MANIFEST = "release.json"
_VERSION = re.compile(r"(0|[1-9]\d{0,4})\.(0|[1-9]\d{0,4})(\.(0|[1-9]\d{0,4}))?")


def write_release(rows: Rows, version: str, releases: Path) -> Path:
    """Write ``releases/<version>/`` in one step and return it.

    Args:
        rows: Committed rows only.
        version: Two or three numbers, for example ``1.0``.
        releases: The folder of all releases; made if it does not exist.

    Raises:
        UsageError: The version has another form, the release exists, or there are rows that are not committed, or none.
        StorageError: The folder cannot be written.
    """
    checked_version(version)
    folder = releases / version
    if folder.exists():
        raise UsageError(f"the release {folder} exists, and releases are frozen; give the next version")
    scratch = scratch_beside(folder)
    with _writing(folder):
        try:
            scratch.mkdir(parents=True)
            fill_release(rows, version, scratch)
            os.rename(scratch, folder)  # fails if another process has made it meanwhile
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return folder


def fill_release(rows: Rows, version: str, folder: Path) -> None:
    """Write the files of a release into an existing, empty folder.

    Raises:
        UsageError: There are rows that are not committed, or none.
        StorageError: A file cannot be written.
    """
    _check_origins(rows)
    all_boards = boards(rows)
    write_pages(all_boards, rows, folder)
    for board in all_boards:
        tables = folder / "tables" / board.suite
        with _writing(tables):
            tables.mkdir(parents=True)
            for scenario in ("", *board.by_scenario):
                (tables / f"{scenario or 'overall'}.csv").write_bytes(view_csv(board, scenario))
    manifest = _manifest(rows, version, all_boards) | {"files": file_digests(folder)}
    with _writing(folder / MANIFEST):
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8", newline="\n")


def file_digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 (hex) of every file of a release but the manifest, by path inside the folder."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / MANIFEST
    }


def checked_version(version: str) -> str:
    """Return ``version`` if it is one.

    Raises:
        UsageError: It is not a version.
    """
    if not _VERSION.fullmatch(version):
        raise UsageError(f"{version!r} is not a release version; give two or three numbers, for example 1.0 or 1.0.1")
    return version


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn an error of the operating system while ``path`` is written into a :class:`StorageError`."""
    try:
        yield
    except OSError as error:
        raise unwritable(f"the release {path}", error) from error


def _check_origins(rows: Rows) -> None:
    parts = (rows.published, rows.pending, rows.local)
    found = [origin for part in parts for origin in part.cells.column("origin").to_pylist()]
    other = sorted(set(found) - {ORIGIN_COMMITTED})
    if other:
        raise UsageError(
            f"{found.count(other[0])} cells are {other[0]}, and a release holds committed rows only; publish them "
            f"first, or name a folder of committed rows with --results"
        )


def _manifest(rows: Rows, version: str, all_boards: Sequence[Board]) -> dict[str, Any]:
    newest = max(cell.row["created_at"] for board in all_boards for cell in board.cells)
    return {
        "release": version,
        "package": __version__,
        "protocol": PROTOCOL_VERSION,
        "schema": SCHEMA_VERSION,
        "suites": {board.suite: {"version": board.version, "protocol": board.protocol} for board in all_boards},
        "rows": {
            "sha256": rows.published_digest,
            "cells": rows.published.cells.num_rows,
            "newest": newest.date().isoformat(),
            "where": f"results/ of the repository at tag release-{version}",
        },
        "check": f"fedsafety reproduce releases/{version}",
    }
