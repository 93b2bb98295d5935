"""The static page: one self-contained HTML file a suite, which opens from disk and makes no request to any network.

The rankings, the map, the methods and the static figures are rendered here and need no script. The script adds
sorting, filtering, other scenarios, comparisons and cells by seed. Text from rows is escaped by
the template engine, data for the script by :mod:`leaderboard.page.data`; a content policy with the script's own
hash stops text that slips through. No time of building and no path enters the page: the same rows give the same
bytes.

Beside each page lie its cells as CSV and Parquet; see :mod:`leaderboard.page.download`.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmark.errors import UsageError, unwritable
from benchmark.records.store import scratch_beside
from leaderboard.page.download import cell_table, csv_bytes, parquet_bytes
from leaderboard.page.render import environment, render
from leaderboard.ranking.board import Board
from leaderboard.rows.rows import Rows


def write_pages(all_boards: Sequence[Board], rows: Rows, out_dir: Path | str) -> Path:
    """Write one page a suite into ``out_dir`` and return the path of the first, ``index.html``.

    Args:
        all_boards: The boards of ``rows``.
        rows: The rows that the boards were made from.
        out_dir: Folder of the pages; made if need be.

    Raises:
        UsageError: There are no cells, or a suite's id cannot name a file.
        StorageError: A page cannot be written; the earlier page stays whole.
    """
    if not all_boards:
        raise UsageError("there are no cells to show; run `fedsafety run` or `make leaderboard` first")
    for board in all_boards:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", board.suite) or board.suite == "index":
            raise UsageError(
                f"suite id {board.suite!r} cannot name a page; use lower-case letters, digits and _, not 'index'"
            )
    names = ["index.html", *(f"{board.suite}.html" for board in all_boards[1:])]
    links = list(zip(names, all_boards, strict=True))
    templates = environment()
    contents: dict[str, bytes] = {}
    for name, board in reversed(links):  # the first page links to all others: it comes last
        table = cell_table(board)
        contents[f"{board.suite}.csv"] = csv_bytes(table)
        contents[f"{board.suite}.parquet"] = parquet_bytes(table)
        contents[name] = render(templates, board, rows, links).encode()
    out = Path(out_dir)
    with _writing(out):
        out.mkdir(parents=True, exist_ok=True)
    _write_all({out / name: content for name, content in contents.items()})
    return out / "index.html"


def _write_all(contents: Mapping[Path, bytes]) -> None:
    """Write files so that a reader sees the old ones or the new ones: none is replaced before all are on disk."""
    scratches = {path: scratch_beside(path) for path in contents}
    try:
        for path, content in contents.items():
            with _writing(path):
                if path.is_dir():
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
                scratches[path].write_bytes(content)
        for path, scratch in scratches.items():
            with _writing(path):
                os.replace(scratch, path)
    finally:
        for scratch in scratches.values():
            scratch.unlink(missing_ok=True)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn an error of the operating system while ``path`` is written into a :class:`StorageError`."""
    try:
        yield
    except OSError as error:
        raise unwritable(f"the page to {path}", error) from error
