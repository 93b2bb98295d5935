from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from benchmark.errors import UsageError
from leaderboard.rows import Rows, load_rows
from leaderboard.text import render_table

from .synthetic import cell_row, exact_rows, write_tables


def printed(rows: Rows, suite: str = "micro", width: int = 160) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(render_table(rows, suite))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_table_shows_rank_scores_and_remarks(tmp_path: Path) -> None:
    cells = [
        (cell_row(scenario=scenario, twin="clean", seed=seed, defense=defense), {"safety": safety, "utility": 0.9})
        for defense, attacked in (("fedavg", 0.1), ("krum", 0.8))
        for scenario, safety in (("aligned_start", attacked), ("clean", 1.0))
        for seed in (0, 1)
    ]
    cells.append((cell_row(defense="dnc", status="failed", reason="[bold]disk full[/bold]"), {}))
    lines = printed(load_rows([write_tables(tmp_path, exact_rows(cells))])).splitlines()
    (krum,) = (line for line in lines if "krum" in line)
    assert krum.split()[:4] == ["1", "krum", "80.0±0.0", "100.0±0.0"]
    assert "dnc is not ranked: aligned_start: failed: [bold]disk full[/bold] (seed 0)" in " ".join(
        "".join(lines).split()
    )
    assert any("not separated" in line for line in lines)


def test_local_rows_alone_are_called_local(runs: Path) -> None:
    text = printed(load_rows([runs]))
    assert "local rows only" in text
    assert "1 seed" in text
    assert "±" not in text.partition("Percent")[0]


def test_a_misspelt_suite_gets_the_nearest(rows: Rows) -> None:
    with pytest.raises(UsageError, match="did you mean 'micro'"):
        render_table(rows, "mirco")


def test_one_scenario_alone_has_its_own_ranking(rows: Rows) -> None:
    console = Console(file=io.StringIO(), width=120)
    console.print(render_table(rows, "micro", "aligned_start"))
    assert isinstance(console.file, io.StringIO)
    assert "Mean over" not in console.file.getvalue()
    with pytest.raises(UsageError, match="did you mean 'aligned_start'"):
        render_table(rows, "micro", "aligned_strat")
