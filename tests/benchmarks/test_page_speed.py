"""The page of 60 defenses in 18 scenarios on 10 seeds, from row files to written files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from leaderboard.build import build
from tests.leaderboard.synthetic import LARGE, write_rows


def test_build(benchmark: Any, tmp_path: Path) -> None:
    benchmark.group = "page"
    rows = write_rows(tmp_path / "rows", LARGE)
    report = benchmark.pedantic(build, args=([rows], [], tmp_path / "site"), rounds=3, warmup_rounds=1)
    benchmark.extra_info["cells"] = report.cells
    benchmark.extra_info["page_bytes"] = report.page.stat().st_size
    assert report.cells > 10_000
