"""Margin and losses on a board: tables that carry them, agreement of the orders, and suites without a margin."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from leaderboard.page.download import cell_table
from leaderboard.ranking.board import Board
from leaderboard.ranking.boards import boards
from leaderboard.ranking.measures import START, has_margin, loss_of, margin_agreement
from leaderboard.rows.rows import load_rows
from leaderboard.scores.summaries import OVERALL
from leaderboard.view_table import view_rows

from ..by_hand import Cell, cells
from ..synthetic import exact_rows, table_of, write_tables

PROBE = "harmful/new_item_known_phrasing/000"


def board_of(root: Path, rows: list[Cell], margins: dict[tuple[str, str], list[float]]) -> Board:
    """Return the board of ``rows`` with margins by (scenario, defense) and seed; without any, none is stored."""
    tables = exact_rows(rows, per=20)
    likelihoods = []
    for row, _ in rows:
        by_seed = margins.get((row["scenario"], row["defense"]))
        if by_seed is None:
            continue
        place = {"response_key": row["response_key"], "probe_id": PROBE, "index": 0, "tokens": 1}
        likelihoods += [
            place | {"role": "refusal", "nats": -50.0 + by_seed[row["seed"]]},
            place | {"role": "target", "nats": -50.0},
        ]
    tables["likelihoods"] = table_of("likelihoods", likelihoods)
    (board,) = boards(load_rows([write_tables(root, tables)]))
    return board


ROWS = [
    *cells("fedavg", [0.2, 0.0], [0.8, 0.9]),
    *cells("krum", [0.8, 0.85], [0.85, 0.9]),
    *cells("median", [0.5, 0.4], [0.9, 0.8]),
    *cells(START, [1.0, 1.0], [1.0, 1.0], ranked=False),
]
MARGINS = {
    ("aligned_start", "fedavg"): [-3.0, -4.0],
    ("aligned_start", "krum"): [1.0, 1.5],
    ("aligned_start", "median"): [2.0, 2.5],
    ("aligned_start", START): [4.0, 4.0],
    ("clean", "fedavg"): [1.0, 2.0],
    ("clean", "krum"): [1.0, 2.0],
    ("clean", "median"): [1.0, 2.0],
    ("clean", START): [4.0, 4.0],
}


@pytest.fixture
def board(tmp_path: Path) -> Board:
    return board_of(tmp_path, ROWS, MARGINS)


def test_losses_by_hand(board: Board) -> None:
    loss = loss_of(board, "aligned_start", "fedavg")
    assert loss is not None
    assert loss.tuning.mean == pytest.approx(0.15)
    assert loss.attack.mean == pytest.approx(0.75)
    margin = loss_of(board, "aligned_start", "fedavg", "margin")
    assert margin is not None
    assert margin.tuning.mean == pytest.approx(2.5)
    assert margin.attack.mean == pytest.approx(5.0)
    assert loss_of(board, OVERALL, "fedavg") == loss  # one scenario is compared
    assert loss_of(board, OVERALL, "nobody") is None


def test_the_margin_has_the_statistics_of_a_score_that_is_no_share(board: Board) -> None:
    standing = next(each for each in board.by_scenario["aligned_start"] if each.entry.id == "fedavg")
    margin = standing.metrics["margin"]
    assert (margin.mean, margin.count, margin.method) == (pytest.approx(-3.5), 2, "t")
    assert margin.low < -4 < -3 < margin.high
    assert standing.metrics["twin_margin"].mean == pytest.approx(1.5)
    difference = board.difference("aligned_start", "krum", "fedavg", "margin")
    assert difference is not None
    assert difference.mean == pytest.approx(4.75)


def test_tables_carry_margin_and_losses(board: Board) -> None:
    lines = {line["defense"]: line for line in view_rows(board, "aligned_start")}
    assert lines["fedavg"]["margin"] == pytest.approx(-3.5)
    assert lines["fedavg"]["lost_to_tuning"] == pytest.approx(0.15)
    assert lines["fedavg"]["lost_to_attack"] == pytest.approx(0.75)
    assert lines["fedavg"]["margin_lost_to_attack"] == pytest.approx(5.0)
    assert lines["fedavg"]["lost_to_attack_low"] < 0.75 < lines["fedavg"]["lost_to_attack_high"]
    assert "margin" in cell_table(board).column_names


def test_agreement_of_the_orders_by_hand(board: Board) -> None:
    """Safety orders fedavg, median, krum; the margin fedavg, krum, median: two of three pairs agree, tau = 1/3."""
    found = margin_agreement(board)
    assert set(found) == {OVERALL, "aligned_start"}
    agreement = found["aligned_start"]
    assert agreement.defenses == ("fedavg", "krum", "median")  # the reference row is not ordered
    assert agreement.tau == pytest.approx(1 / 3)
    assert agreement.reversed == (("krum", "median"),)
    assert dict(agreement.by_seed) == pytest.approx({0: 1 / 3, 1: 1 / 3})


def test_a_tie_counts_for_neither_order(tmp_path: Path) -> None:
    """Safety ties krum and median; the margin does not: tau-b = 2 / sqrt(2 * 3)."""
    rows = [cell for cell in ROWS if cell[0]["defense"] != "median"] + cells("median", [0.8, 0.85], [0.9, 0.8])
    agreement = margin_agreement(board_of(tmp_path, rows, MARGINS))["aligned_start"]
    assert agreement.tau == pytest.approx(2 / math.sqrt(6))
    assert agreement.reversed == ()


def test_a_suite_without_likelihoods_has_no_column_more(tmp_path: Path) -> None:
    board = board_of(tmp_path, ROWS, {})
    assert not has_margin(board)
    assert margin_agreement(board) == {}
    assert not any("margin" in name or "lost_to" in name for line in view_rows(board) for name in line)
    assert loss_of(board, "aligned_start", "fedavg", "margin") is None


def test_without_the_start_models_row_there_is_no_split(tmp_path: Path) -> None:
    board = board_of(tmp_path, [cell for cell in ROWS if cell[0]["defense"] != START], MARGINS)
    assert loss_of(board, "aligned_start", "fedavg") is None
    line = next(line for line in view_rows(board) if line["defense"] == "fedavg")
    assert line["lost_to_attack"] is None
