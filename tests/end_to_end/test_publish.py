"""Local rows become committed ones, and a page is computed from them alone."""

from __future__ import annotations

import shutil
from pathlib import Path

from benchmark.records.schemas import TABLES
from benchmark.records.store import Store

from .conftest import Fedsafety


def digest_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_published_rows_are_the_local_ones_with_another_origin(
    tmp_path: Path, finished_run: Path, fedsafety: Fedsafety
) -> None:
    results = tmp_path / "results"
    first = fedsafety("publish", "--suite", "tiny", "--runs", finished_run, "--results", results)
    assert first.returncode == 0, first.stderr
    written = {path.parent.name for path in results.rglob("*.parquet")}
    assert written == set(TABLES) - {"likelihoods", "task_scores", "verifications", "inputs", "readings"}
    local, committed = Store(finished_run), Store(results / "tiny")
    for table in TABLES:
        expected = [
            {**row, "origin": "committed"} if "origin" in row else row for row in local.read_all(table).to_pylist()
        ]
        assert sorted(committed.read_all(table).to_pylist(), key=repr) == sorted(expected, key=repr), table
    before = digest_of(results)
    again = fedsafety("publish", "--suite", "tiny", "--runs", finished_run, "--results", results)
    assert again.returncode == 2
    assert "already has each finished cell" in again.stderr
    assert digest_of(results) == before


def test_later_rows_are_added_without_touching_earlier_files(
    tmp_path: Path, finished_run: Path, fedsafety: Fedsafety
) -> None:
    results, part = tmp_path / "results", tmp_path / "part"
    shutil.copytree(finished_run, part)
    cells = Store(part).read_all("cells").to_pylist()
    for cell in cells:
        if cell["defense"] != "fedavg":
            Store(part).remove("cells", cell["cell_key"])
    assert fedsafety("publish", "--suite", "tiny", "--runs", part, "--results", results).returncode == 0
    before = digest_of(results)
    second = fedsafety("publish", "--suite", "tiny", "--runs", finished_run, "--results", results)
    assert second.returncode == 0, second.stderr
    after = digest_of(results)
    assert before.items() <= after.items()
    keys = [row["cell_key"] for row in Store(results / "tiny").read_all("cells").to_pylist()]
    assert sorted(keys) == sorted(cell["cell_key"] for cell in cells)
    page = fedsafety(
        "leaderboard", "--suite", "tiny", "--results", results, "--runs", tmp_path / "none", "--out", tmp_path
    )
    assert page.returncode == 0, page.stderr


def test_the_same_rows_give_the_same_page(tmp_path: Path, finished_run: Path, fedsafety: Fedsafety) -> None:
    pages = []
    for name in ("one", "two"):
        results, out = tmp_path / name / "results", tmp_path / name / "site"
        assert fedsafety("publish", "--suite", "tiny", "--runs", finished_run, "--results", results).returncode == 0
        arguments = ("--results", results, "--runs", tmp_path / "none", "--out", out)
        assert fedsafety("leaderboard", "--suite", "tiny", *arguments).returncode == 0
        pages.append(digest_of(out))
    assert pages[0] == pages[1]
