"""Pages from folders of rows, in one call."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from leaderboard.page.site import write_pages
from leaderboard.ranking.board import Board
from leaderboard.ranking.boards import boards
from leaderboard.rows.rows import load_rows


@dataclass(frozen=True)
class BuildReport:
    """The pages that were built.

    Attributes:
        page: The first page, ``index.html``.
        seconds: Wall time of loading, computing and writing, without Python's own start.
        cells: Number of cell rows that were read, published and local.
        digest: SHA-256 (hex) over the content of all rows.
        boards: What the pages show, for a table in the terminal.
    """

    page: Path
    seconds: float
    cells: int
    digest: str
    boards: tuple[Board, ...]


def build(results_roots: Iterable[Path | str], runs_roots: Iterable[Path | str], out_dir: Path | str) -> BuildReport:
    """Build the pages of all suites found below the roots.

    Args:
        results_roots: Folders of committed rows; each must exist.
        runs_roots: Folders of this machine's runs; one that does not exist yet counts as empty.
        out_dir: Folder of the pages; made if it does not exist.

    Raises:
        UsageError: A folder is missing or lies inside another, or there are no cells at all.
        StorageError: A page cannot be written.
        FedSafetyError: Rows cannot be read faithfully; see :func:`leaderboard.rows.rows.load_rows`.
    """
    start = time.perf_counter()
    runs = [Path(root) for root in runs_roots if Path(root).exists()]
    rows = load_rows(results_roots, local=runs)
    found = tuple(boards(rows))
    page = write_pages(found, rows, out_dir)
    cells = rows.published.cells.num_rows + rows.local.cells.num_rows
    return BuildReport(page, time.perf_counter() - start, cells, rows.digest, found)
