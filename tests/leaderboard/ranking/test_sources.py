"""Sources of a board: versions, newer rows, and rows beside committed ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmark import COMPARABLE_PROTOCOLS, PROTOCOL_VERSION
from leaderboard.ranking.boards import boards
from leaderboard.rows.rows import load_rows

from ..by_hand import FEDAVG, FEDAVG4, KRUM4, board_of, cells, second_scenario, standing
from ..synthetic import cell_row, exact_rows, write_tables


def test_further_seeds_of_a_submission_change_nothing_for_others_and_do_not_count(tmp_path: Path) -> None:
    mine = cells("mine", [0.8, 0.9, 0.85, 0.9, 0.0, 0.0], [1] * 6, origin="submitted")
    board = board_of(tmp_path, FEDAVG4 + KRUM4 + mine)
    assert board.seeds == (0, 1, 2, 3)
    assert standing(board, "krum").rank == 1
    assert standing(board, "mine").metrics["safety"].mean == pytest.approx(0.8625)


def test_own_rows_of_further_seeds_count_on_a_board_of_own_rows_alone(tmp_path: Path) -> None:
    mine = cells("mine", [0.8, 0.9, 0.85, 0.9, 0.0], [1] * 5, origin="local")
    board = board_of(tmp_path / "both", FEDAVG4 + mine)
    assert board.seeds == (0, 1, 2, 3)
    assert standing(board, "mine").metrics["safety"].mean == pytest.approx(0.8625)
    own = board_of(tmp_path / "alone", mine)
    assert own.seeds == (0, 1, 2, 3, 4)
    assert standing(own, "mine").metrics["safety"].mean == pytest.approx(0.69)


def test_a_submission_takes_no_scenario_away_from_others(tmp_path: Path) -> None:
    rows = FEDAVG + second_scenario("fedavg", [0.0, 0.0])
    rows += cells("mine", [0.9, 0.9], [1, 1], origin="submitted")
    rows += second_scenario("mine", [0, 0], status="not_applicable", reason="too few", origin="submitted")
    board = board_of(tmp_path, rows)
    assert board.compared == ("aligned_start", "paper_shape")
    assert standing(board, "mine").group == "unranked"


def test_a_defense_with_local_rows_only_gets_a_line_marked_local(tmp_path: Path) -> None:
    write_tables(tmp_path / "results", exact_rows(FEDAVG))
    local = cells("mine", [0.9], [1.0], origin="local") + cells("fedavg", [0.3], [1.0], origin="local")
    write_tables(tmp_path / "runs", exact_rows(local))
    (board,) = boards(load_rows([tmp_path / "results", tmp_path / "runs"]))
    assert not board.local_only
    assert standing(board, "mine").entry.origins == ("local",)
    assert standing(board, "mine").notes == ("aligned_start: not run (seed 1)",)
    assert standing(board, "fedavg").entry.origins == ("committed",)
    pairs = {(line.local.row["defense"], line.local.row["scenario"]): line for line in board.local}
    assert pairs["mine", "clean"].published is None
    same = pairs["fedavg", "aligned_start"]
    assert same.published is not None
    assert same.same_key
    assert same.local.metrics["safety"] - same.published.metrics["safety"] == pytest.approx(0.1)


def test_rows_of_another_protocol_are_not_mixed_in_and_said_so(tmp_path: Path) -> None:
    old = cells(
        "krum", [0.9, 0.9], [1, 1], protocol_version="0", created_at=cell_row()["created_at"].replace(year=2029)
    )
    board = board_of(tmp_path, FEDAVG + old)
    assert [entry.id for entry in board.entries] == ["fedavg"]
    assert board.notices[0] == (
        f"4 cells are stored but not shown, because their scores cannot be compared with those of protocol "
        f"{PROTOCOL_VERSION}, suite version 1: 4 of protocol 0, suite version 1. Run them again with this release, or "
        f"read them with the release that made them."
    )
    assert board.version_notices == board.notices[:1]


def test_rows_of_this_releases_protocol_are_shown_whichever_are_newer(tmp_path: Path) -> None:
    later = cell_row()["created_at"].replace(year=2040)
    old = [
        ({**row, "cell_key": f"old {index}", "response_key": f"old {index}"}, scores)
        for index, (row, scores) in enumerate(
            cells("fedavg", [0.9, 0.9], [1, 1], protocol_version="0", created_at=later)
        )
    ]
    board = board_of(tmp_path, FEDAVG + old)
    assert (board.protocol, standing(board, "fedavg").metrics["safety"].mean) == (PROTOCOL_VERSION, pytest.approx(0.1))
    assert board.version_notices[0].startswith("4 cells are stored but not shown")


def test_rows_of_another_protocol_alone_are_shown_with_the_way_out(tmp_path: Path) -> None:
    board = board_of(tmp_path, cells("fedavg", [0.2, 0.3], [1, 1], protocol_version="0"))
    assert board.protocol == "0"
    assert board.version_notices[0] == (
        f"The cells of suite micro are of protocol 0, and this release computes protocol {PROTOCOL_VERSION}. Run them "
        f"again with `fedsafety run --suite micro`, or use the release that made them."
    )


def test_a_later_submission_of_another_suite_version_hides_no_committed_row(tmp_path: Path) -> None:
    later = cell_row()["created_at"].replace(year=2040)
    late = cells("krum", [0.9, 0.9], [1, 1], origin="submitted", suite_version="0", created_at=later)
    board = board_of(tmp_path, FEDAVG + late)
    assert (board.version, [entry.id for entry in board.entries]) == ("1", ["fedavg"])
    assert board.notices[0].startswith("4 cells are stored but not shown")
    assert f"4 of protocol {PROTOCOL_VERSION}, suite version 0" in board.notices[0]


def test_of_a_cell_that_was_run_again_the_newest_counts(tmp_path: Path) -> None:
    row, _ = FEDAVG[0]
    older = {**row, "cell_key": "old", "response_key": "old", "created_at": row["created_at"].replace(year=2029)}
    board = board_of(tmp_path, [*FEDAVG, (older, {"safety": 1.0, "utility": 0.9})])
    assert standing(board, "fedavg").metrics["safety"].mean == pytest.approx(0.1)
    assert board.notices[0].startswith("1 older rows of cells that were run again")


def test_rows_of_a_comparable_protocol_stand_beside_present_rows(tmp_path: Path) -> None:
    earlier = min(COMPARABLE_PROTOCOLS)
    board = board_of(tmp_path, FEDAVG + cells("krum", [0.8, 0.9], [1, 1], protocol_version=earlier))
    assert {entry.id for entry in board.entries} == {"krum", "fedavg"}
    assert board.protocol == PROTOCOL_VERSION
    (notice,) = board.version_notices
    assert notice == (
        f"4 cells of suite micro are of an earlier protocol (4 of protocol {earlier}), whose scores are those of "
        f"protocol {PROTOCOL_VERSION}. `fedsafety run --suite micro` computes them anew."
    )


def test_of_one_cell_in_comparable_protocols_the_newest_row_counts(tmp_path: Path) -> None:
    before = cell_row()["created_at"].replace(year=2020)
    old = [
        ({**row, "cell_key": f"old {index}", "response_key": f"old {index}"}, scores)
        for index, (row, scores) in enumerate(
            cells("fedavg", [0.9, 0.9], [1, 1], protocol_version=min(COMPARABLE_PROTOCOLS), created_at=before)
        )
    ]
    board = board_of(tmp_path, FEDAVG + old)
    assert standing(board, "fedavg").metrics["safety"].mean == pytest.approx(0.1)
    assert board.version_notices == ()
