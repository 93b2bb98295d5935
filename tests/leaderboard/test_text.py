from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from benchmark.errors import UsageError
from leaderboard.ranking.boards import boards
from leaderboard.rows.rows import Rows, load_rows
from leaderboard.scores.summaries import OVERALL
from leaderboard.text import render_table

from .by_hand import FEDAVG4, KRUM4, MEDIAN4, ROUNDS, TWIN, uneven, write_uneven
from .synthetic import cell_row, exact_rows, write_tables


def printed(rows: Rows, suite: str = "micro", width: int = 160) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(render_table(boards(rows), suite))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def cells(defense: str, attacked: list[float], clean: float = 1.0) -> list[tuple[dict[str, Any], dict[str, float]]]:
    return [
        (
            cell_row(scenario=scenario, twin="clean", attack=attack, seed=seed, defense=defense),
            {"safety": safety, "utility": 0.9},
        )
        for seed, under_attack in enumerate(attacked)
        for scenario, attack, safety in (("aligned_start", "unaligned_data", under_attack), ("clean", "none", clean))
    ]


def test_the_table_shows_rank_interval_and_remarks(tmp_path: Path) -> None:
    rows = cells("fedavg", [0.1, 0.2, 0.1]) + cells("krum", [0.8, 0.9, 0.85]) + cells("median", [0.15, 0.1, 0.2])
    rows.append((cell_row(defense="dnc", status="failed", reason="[bold]disk full[/bold]; free space"), {}))
    lines = printed(load_rows([write_tables(tmp_path, exact_rows(rows))])).splitlines()
    (krum,) = (line for line in lines if " krum " in line)
    # t with two degrees of freedom: 4.303 * 0.05 / sqrt(3) = 0.124 to each side of 0.85
    assert krum.split() == ["1", "krum", "85.0", "[73,", "97]", "\N{EN DASH}", "100.0", "100.0", "90.0", "safer"]
    (median,) = (line for line in lines if "median" in line)
    assert median.split()[0] == "2"
    assert median.split()[-1] == "tied"
    text = " ".join(" ".join(lines).split())
    assert "dnc: aligned_start: failed: [bold]disk full[/bold]." in text
    assert "equal ranks are ties" in text


def test_seeds_that_do_not_vary_are_marked_exact(tmp_path: Path) -> None:
    rows = cells("fedavg", [0.0, 0.0]) + cells("krum", [1.0, 1.0])
    text = printed(load_rows([write_tables(tmp_path, exact_rows(rows))]))
    assert "100.0 [95,100]x" in text
    assert "the interval is that of the probes" in text


def test_the_table_fits_a_terminal_of_80_columns(rows: Rows) -> None:
    lines = printed(rows, width=80).splitlines()
    heading = next(line for line in lines if "defense" in line)
    assert heading.split() == ["#", "defense", "safety", "worst", "clean", "refuses", "utility", "vs"]


@pytest.mark.parametrize("width", [60, 40, 20])
def test_rank_and_name_are_the_last_to_go(rows: Rows, width: int) -> None:
    names = [line.entry.id for line in boards(rows)[0].standings(OVERALL)]
    text = printed(rows, width=width)
    heading = next(line for line in text.splitlines() if "defense" in line)
    assert heading.split()[:2] == ["#", "defense"]
    assert "utility" not in heading
    assert "Not shown: " in text
    assert "utility" in " ".join(text.split()).rpartition("Not shown: ")[2]
    folded = "".join(line[4:].strip() for line in text.splitlines()) if width == 20 else text
    assert all(name in folded for name in names)


def test_local_rows_alone_are_called_local(runs: Path) -> None:
    text = printed(load_rows([runs]))
    assert "local rows only" in text
    assert "1 seed" in text
    assert "One seed: no intervals and no ranks" in text
    assert "[" not in text.partition("Mean over")[0]


def test_a_misspelt_suite_gets_the_nearest(rows: Rows) -> None:
    with pytest.raises(UsageError, match="did you mean 'micro'"):
        render_table(boards(rows), "mirco")


def test_a_suite_without_rows_is_not_denied(rows: Rows) -> None:
    with pytest.raises(UsageError, match=r"'pocket' exists, .*`fedsafety run --suite pocket`, .*--results and --runs"):
        render_table(boards(rows), "pocket")


def test_one_scenario_alone_has_its_own_ranking(rows: Rows) -> None:
    console = Console(file=io.StringIO(), width=120)
    console.print(render_table(boards(rows), "micro", "aligned_start"))
    assert isinstance(console.file, io.StringIO)
    assert "Mean over" not in console.file.getvalue()
    with pytest.raises(UsageError, match="did you mean 'aligned_start'"):
        render_table(boards(rows), "micro", "aligned_strat")


def test_seeds_are_those_of_the_scenario_and_a_score_that_is_not_run_is_named(tmp_path: Path) -> None:
    rows = FEDAVG4 + MEDIAN4 + KRUM4 + uneven(ROUNDS, ("fedavg", "krum"))
    (board,) = boards(load_rows([write_uneven(tmp_path, rows, rounds={"seeds": [0, 1]}, clean_rounds=TWIN)]))
    for scenario, seeds, clean in (("", "Micro, 4 seeds", "100.0"), ("rounds", "Micro, 2 seeds", "not run")):
        console = Console(file=io.StringIO(), width=160)
        console.print(render_table([board], "micro", scenario))
        assert isinstance(console.file, io.StringIO)
        text = console.file.getvalue()
        assert seeds in text
        (median,) = (line for line in text.splitlines() if " median " in line)
        assert clean in median
        assert ("the rank does not need it" in text) == (clean == "not run")
