"""Stages beside FedAvg: who belongs to which line, the mean of a line, and what one seed leaves open."""

from __future__ import annotations

from pathlib import Path

import pytest

from leaderboard.build import build
from leaderboard.page.stages import SEVERAL, stages, tuned_lines
from leaderboard.ranking.board import Board
from leaderboard.ranking.boards import boards
from leaderboard.rows.rows import load_rows

from ..by_hand import DNC4, FEDAVG4, KRUM4, MEDIAN4, Cell, cells
from ..synthetic import catalog_row, exact_rows, table_of, write_tables
from ..views.test_tuned import search, tuned_cells, write_tuned

ACTS = {
    "fedavg": "aggregate",
    "median": "aggregate",
    "krum": "aggregate",
    "dnc": "finalize",
    "both": "prepare,finalize",
    "ptst": "serve",
    "keep": "",
}


def rows_of(root: Path, rows: list[Cell]) -> Path:
    entries = [catalog_row("defense", name) | {"stages": names} for name, names in ACTS.items()]
    return write_tables(root / "rows", {**exact_rows(rows), "catalog": table_of("catalog", entries)})


def board_of(root: Path, rows: list[Cell]) -> Board:
    (board,) = boards(load_rows([rows_of(root, rows)]))
    return board


def test_defenses_stand_in_the_line_of_their_stage_in_order_of_time(tmp_path: Path) -> None:
    both, ptst, keep = (cells(name, [0.4, 0.5, 0.4, 0.5], [1, 1, 1, 1]) for name in ("both", "ptst", "keep"))
    [found] = stages(board_of(tmp_path, FEDAVG4 + MEDIAN4 + KRUM4 + DNC4 + both + ptst + keep))
    assert found.scenario.id == "aligned_start"
    assert [(line.title, line.defenses, line.safest.entry.id) for line in found.lines] == [
        ("In the rounds", 3, "krum"),
        ("After the last round", 1, "dnc"),
        ("When serving", 1, "ptst"),
        (SEVERAL, 1, "both"),
    ]


def test_the_mean_of_a_stage_is_over_its_defenses_and_paired_by_seed(tmp_path: Path) -> None:
    [found] = stages(board_of(tmp_path, FEDAVG4 + MEDIAN4 + KRUM4 + DNC4))
    line = found.lines[0]
    # Seeds 0 to 3: (0.5 + 0.8) / 2 - 0.1, (0.6 + 0.9) / 2 - 0.2, (0.5 + 0.85) / 2 - 0.1, (0.55 + 0.9) / 2 - 0.2.
    assert line.mean.mean == pytest.approx((0.55 + 0.55 + 0.575 + 0.525) / 4)
    assert line.mean.low < 0.55 < line.mean.high
    assert [better.entry.id for better in line.safer] == ["krum", "median"]
    assert line.gain is not None
    assert line.gain.mean == pytest.approx((0.8 + 0.9 + 0.85 + 0.9 - 0.6) / 4)


def test_a_gain_is_at_most_a_hundred_points(tmp_path: Path) -> None:
    rows = cells("fedavg", [0.0, 0.1, 0.0, 0.0], [1, 1, 1, 1])
    rows += cells("median", [1.0, 1.0, 0.9, 1.0], [1, 1, 1, 1]) + cells("krum", [1.0, 0.9, 1.0, 1.0], [1, 1, 1, 1])
    [found] = stages(board_of(tmp_path, rows))
    assert found.lines[0].mean.mean == pytest.approx(0.975 - 0.025)
    assert found.lines[0].mean.high == 1.0


def test_a_defense_that_is_significantly_worse_is_not_among_the_safer_ones(tmp_path: Path) -> None:
    [found] = stages(board_of(tmp_path, cells("fedavg", [0.8, 0.9, 0.85, 0.9], [1, 1, 1, 1]) + MEDIAN4))
    assert (found.lines[0].compared, found.lines[0].safer) == (True, ())
    assert found.lines[0].mean.high < 0


def test_without_fedavg_or_without_a_rival_there_is_no_line(tmp_path: Path) -> None:
    assert stages(board_of(tmp_path / "a", FEDAVG4)) == ()
    assert stages(board_of(tmp_path / "b", MEDIAN4 + KRUM4)) == ()


def test_with_one_seed_the_page_shows_gains_without_intervals_and_counts_nobody(tmp_path: Path) -> None:
    rows = cells("fedavg", [0.2], [1.0]) + cells("krum", [0.9], [1.0])
    page = build([rows_of(tmp_path, rows)], [], tmp_path / "site").page.read_text(encoding="utf-8")
    section = page.partition('id="stages"')[2].partition("</section>")[0]
    assert 'href="#stages"' in page
    assert "<td>1</td><td>\N{EN DASH}</td>" in section
    assert section.count('<span class="n">+70.0</span>') == 2
    assert 'class="ci"' not in section


def test_what_a_tuned_attack_leaves_stands_by_stage_and_only_for_searched_defenses(tmp_path: Path) -> None:
    root = tmp_path / "committed"
    entries = [catalog_row("defense", name) | {"stages": names} for name, names in ACTS.items()]
    committed = {**exact_rows(FEDAVG4 + MEDIAN4 + KRUM4 + DNC4), "catalog": table_of("catalog", entries)}
    write_tables(root / "micro", committed)
    krum = search("krum")
    write_tuned(root, [krum, search("dnc", lower=False)], tuned_cells(krum, [0.2, 0.1, 0.2, 0.1]))
    (board,) = boards(load_rows([root]))
    first, second = tuned_lines(board)
    assert (first.title, first.standing.entry.id, first.worst.safety.mean) == (
        "In the rounds",
        "krum",
        pytest.approx(0.15),
    )
    assert (second.title, second.standing.entry.id) == ("After the last round", "dnc")
    assert second.worst.safety == second.standing.metrics["safety"]
    page = build([root], [], tmp_path / "site").page.read_text(encoding="utf-8")
    section = page.partition('id="stages"')[2].partition("</section>")[0]
    assert "<code>boosted_data</code>, 20 trials" in section
    assert "nothing lower found in 20 trials" in section
    assert section.count("Defenses that are not listed were not searched.") == 1
