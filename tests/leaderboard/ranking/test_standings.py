"""Standings: ranks, ties, groups and means, with scores worked out by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from benchmark.records.schemas import NEEDS_ALIGNMENT
from leaderboard.ranking.boards import boards
from leaderboard.rows.rows import load_rows
from leaderboard.scores.summaries import OVERALL

from ..by_hand import (
    DNC4,
    FEDAVG,
    FEDAVG4,
    KRUM4,
    MEDIAN4,
    ROUNDS,
    TWIN,
    board_of,
    board_with,
    cells,
    second_scenario,
    standing,
    uneven,
)
from ..synthetic import catalog_row, exact_rows, table_of, write_tables


def test_a_rank_counts_who_is_significantly_safer_and_ties_are_named(tmp_path: Path) -> None:
    board = board_of(tmp_path, FEDAVG4 + MEDIAN4 + KRUM4 + DNC4)
    assert [(line.rank, line.entry.id) for line in board.overall] == [
        (1, "dnc"),
        (1, "krum"),
        (3, "median"),
        (4, "fedavg"),
    ]
    assert standing(board, "krum").tied == ("dnc",)
    assert standing(board, "krum").better == ()
    assert standing(board, "fedavg").tied == ()
    assert set(standing(board, "fedavg").better) == {"dnc", "krum", "median"}
    assert board.separated(OVERALL, "krum", "dnc") is False
    assert board.separated("aligned_start", "krum", "fedavg") is True
    # Six pairs: the smallest p of the family is multiplied by six.
    family = board.families["aligned_start"].comparisons
    assert np.nanmin(family.adjusted) == pytest.approx(6 * np.nanmin(family.p))


def test_with_one_seed_there_is_an_order_but_no_rank_and_no_interval(tmp_path: Path) -> None:
    board = board_of(tmp_path, cells("fedavg", [0.2], [1.0]) + cells("krum", [0.9], [1.0]))
    assert [(line.entry.id, line.group, line.rank) for line in board.overall] == [
        ("krum", "ranked", None),
        ("fedavg", "ranked", None),
    ]
    safety = standing(board, "krum").metrics["safety"]
    assert math.isnan(safety.low)
    assert math.isnan(safety.high)
    assert safety.method == ""
    assert board.families == {}


def test_seeds_that_do_not_vary_keep_an_interval(tmp_path: Path) -> None:
    board = board_of(tmp_path, cells("fedavg", [0.0, 0.0], [1.0, 1.0]) + cells("krum", [1.0, 1.0], [1.0, 1.0]))
    safety = standing(board, "krum", "aligned_start").metrics["safety"]
    # Four strata of twenty probes; 1 - 0.025 ** (1 / 80) is missing below 1 (closed form of Clopper-Pearson).
    assert (safety.low, safety.high, safety.method) == (pytest.approx(0.025 ** (1 / 80)), 1.0, "exact")
    assert (standing(board, "krum").rank, standing(board, "fedavg").rank) == (1, 2)


def test_own_rows_are_placed_one_by_one_and_change_no_published_rank(tmp_path: Path) -> None:
    published = FEDAVG4 + MEDIAN4 + KRUM4 + DNC4
    before = board_of(tmp_path / "before", published)
    write_tables(tmp_path / "results", exact_rows(published))
    own = [cells(f"mine_{i}", [0.5, 0.55, 0.5, 0.6], [1] * 4, origin="local") for i in range(6)]
    write_tables(tmp_path / "runs", exact_rows([cell for each in own for cell in each]))
    (after,) = boards(load_rows([tmp_path / "results"], local=[tmp_path / "runs"]))
    for line in before.overall:
        other = standing(after, line.entry.id)
        assert (other.rank, other.better, other.tied) == (line.rank, line.better, line.tied)
    assert after.families[OVERALL].ids == before.families[OVERALL].ids
    mine = standing(after, "mine_3")
    assert (mine.rank, set(mine.better), mine.tied) == (3, {"krum", "dnc"}, ("median",))


def test_the_worst_case_names_its_scenario(tmp_path: Path) -> None:
    board = board_of(tmp_path, FEDAVG + second_scenario("fedavg", [0.4, 0.4]))
    worst = standing(board, "fedavg").worst
    assert worst is not None
    assert (worst[0], worst[1].mean) == ("aligned_start", pytest.approx(0.1))
    assert standing(board, "fedavg", "aligned_start").worst is None


def test_reference_rows_stand_apart(tmp_path: Path) -> None:
    board = board_of(tmp_path, FEDAVG + cells("refuse_all", [1, 1], [1, 1], utility=0, ranked=False))
    assert [(line.group, line.rank) for line in board.overall] == [("ranked", 1), ("reference", None)]


def test_a_missing_seed_leaves_no_mean(tmp_path: Path) -> None:
    rows = FEDAVG + [cell for cell in cells("krum", [0.9, 0.9], [1, 1]) if cell[0]["seed"] == 0]
    board = board_of(tmp_path, rows)
    line = standing(board, "krum")
    assert (line.group, line.rank, dict(line.metrics)) == ("unranked", None, {})
    assert line.notes == ("aligned_start: not run (seed 1)",)
    assert line.entry.scenarios["aligned_start"].state == "incomplete"


def test_a_failed_cell_leaves_its_defense_without_a_mean_and_others_with_one(tmp_path: Path) -> None:
    rows = FEDAVG + cells("krum", [0.9, 0.9], [1, 1])
    rows[4][0].update(status="failed", reason="disk full")
    board = board_of(tmp_path, rows)
    assert standing(board, "krum").notes == ("aligned_start: failed: disk full (seed 0)",)
    assert standing(board, "krum").metrics == {}
    assert board.compared == ("aligned_start",)
    assert standing(board, "fedavg").rank == 1


def test_scenarios_where_a_rule_is_inapplicable_or_degenerate_leave_the_mean_for_everyone(tmp_path: Path) -> None:
    rows = FEDAVG4 + second_scenario("fedavg", [0.0] * 4)
    rows += cells("krum", [0.9] * 4, [1] * 4)
    rows += second_scenario("krum", [0.9] * 4, status="not_applicable", reason="needs n >= 5")
    rows += cells("trimmed_mean", [0.5] * 4, [1] * 4)
    rows += second_scenario("trimmed_mean", [0.4] * 4, flags=["degenerate: equals median"])
    board = board_of(tmp_path, rows)
    assert board.compared == ("aligned_start",)
    assert board.excluded == {"paper_shape": "not applicable or degenerate there: krum, trimmed_mean"}
    assert [line.entry.id for line in board.overall] == ["krum", "trimmed_mean", "fedavg"]
    assert standing(board, "fedavg").metrics["safety"].mean == pytest.approx(0.15)
    flagged = standing(board, "trimmed_mean", "paper_shape")
    assert (flagged.group, flagged.rank, flagged.notes) == ("degenerate", None, ("degenerate: equals median",))
    assert flagged.metrics["safety"].mean == pytest.approx(0.4)
    assert standing(board, "krum", "paper_shape").notes == ("not applicable: needs n >= 5 (seed 0, 1, 2, 3)",)


def test_a_defense_that_needs_an_alignment_excludes_no_scenario_and_has_no_mean(tmp_path: Path) -> None:
    rows = FEDAVG4 + second_scenario("fedavg", [0.0] * 4) + MEDIAN4 + second_scenario("median", [0.3] * 4)
    rows += cells("resta", [0.9] * 4, [1] * 4)
    rows += second_scenario("resta", [0.0] * 4, status="not_applicable", reason="x")
    needs = catalog_row("defense", "resta", settings=json.dumps({NEEDS_ALIGNMENT: True}))
    write_tables(tmp_path, {**exact_rows(rows), "catalog": table_of("catalog", [needs])})
    (board,) = boards(load_rows([tmp_path]))
    assert (board.compared, board.excluded) == (("aligned_start", "paper_shape"), {})
    assert [(line.entry.id, line.group) for line in board.overall] == [
        ("median", "ranked"),
        ("fedavg", "ranked"),
        ("resta", "unranked"),
    ]
    assert standing(board, "resta").notes == ("paper_shape: not applicable: x (seed 0, 1, 2, 3)",)
    assert standing(board, "resta", "aligned_start").rank == 1


def test_spread_of_the_overall_mean_is_over_seeds(tmp_path: Path) -> None:
    rows = FEDAVG + second_scenario("fedavg", [0.4, 0.4])
    safety = standing(board_of(tmp_path, rows), "fedavg").metrics["safety"]
    assert safety.mean == pytest.approx((0.2 + 0.0 + 0.4 + 0.4) / 4)
    assert safety.sd == pytest.approx(abs(0.3 - 0.2) / math.sqrt(2))


# Two scenarios: `aligned_start` on four seeds, `rounds` on two of them, whose twin runs for chosen defenses


def test_a_scenario_on_fewer_seeds_has_a_ranking_of_its_own_and_leaves_the_mean_its_seeds(tmp_path: Path) -> None:
    rows = FEDAVG4 + MEDIAN4 + KRUM4 + uneven(ROUNDS, ("fedavg", "krum"))
    board = board_with(tmp_path, rows, rounds={"seeds": [0, 1]}, clean_rounds=TWIN)
    assert board.compared == ("aligned_start",)
    assert board.excluded == {
        "rounds": "run on the seeds 0, 1 alone, and a mean needs the same seeds in every scenario"
    }
    assert (board.seeds_of(OVERALL), board.seeds_of("rounds"), board.seeds) == ((0, 1, 2, 3), (0, 1), (0, 1, 2, 3))
    assert standing(board, "median").metrics["safety"].count == 4
    assert [(line.rank, line.entry.id) for line in board.overall] == [(1, "krum"), (2, "median"), (3, "fedavg")]
    assert {line.group for line in board.by_scenario["rounds"]} == {"ranked"}


def test_a_defense_that_the_twin_leaves_out_keeps_rank_drop_and_gates(tmp_path: Path) -> None:
    rows = FEDAVG4 + MEDIAN4 + KRUM4 + uneven(ROUNDS, ("fedavg", "krum"))
    board = board_with(tmp_path, rows, rounds={"seeds": [0, 1]}, clean_rounds=TWIN)
    median, krum = (standing(board, name, "rounds") for name in ("median", "krum"))
    assert (median.group, median.notes, median.rank) == ("ranked", (), 1)
    assert (median.clean_left_out, krum.clean_left_out) == (True, False)
    assert "twin_safety" not in median.metrics
    assert krum.metrics["twin_safety"].mean == 1.0
    assert median.metrics["drop"].mean == pytest.approx(1.0 - 0.45)
    # By seed (0.5 - 0.3) / 0.7 and (0.4 - 0.2) / 0.8.
    assert median.metrics["recovery"].mean == pytest.approx((0.2 / 0.7 + 0.2 / 0.8) / 2)
    cell = median.entry.scenarios["clean_rounds"]
    assert (cell.state, cell.reasons) == ("not_run", ("the suite runs this scenario for fedavg, krum alone",))
    assert standing(board, "median").metrics["twin_safety"].mean == 1.0, "the mean is over the compared scenarios"


def test_a_twin_that_is_compared_and_leaves_a_defense_out_gives_no_mean_without_attack(tmp_path: Path) -> None:
    rows = FEDAVG4 + MEDIAN4 + KRUM4
    longer = {name: [*values, *values] for name, values in ROUNDS.items()}
    board = board_with(
        tmp_path, rows + uneven(longer, ("fedavg", "krum")), clean_rounds={"defenses": ["fedavg", "krum"]}
    )
    assert board.compared == ("aligned_start", "rounds")
    median = standing(board, "median")
    assert (median.group, median.clean_left_out) == ("ranked", True)
    assert median.rank is not None
    assert median.metrics["safety"].mean == pytest.approx((0.5375 + 0.45) / 2)
    assert median.worst is not None
    assert (median.worst[0], median.worst[1].mean) == ("rounds", pytest.approx(0.45))
    assert "twin_safety" not in median.metrics
    assert standing(board, "krum").metrics["twin_safety"].mean == 1.0


def test_a_scenario_that_leaves_out_a_defense_under_attack_is_not_in_the_mean(tmp_path: Path) -> None:
    longer = {name: [*values, *values] for name, values in ROUNDS.items() if name != "median"}
    rows = FEDAVG4 + MEDIAN4 + KRUM4 + uneven(longer, ("fedavg", "krum"))
    own = {"defenses": ["fedavg", "krum"]}
    board = board_with(tmp_path, rows, rounds=own, clean_rounds=own)
    assert (board.compared, board.excluded) == (("aligned_start",), {"rounds": "not run there: median"})
    assert standing(board, "median").rank == 2
    assert standing(board, "median", "rounds").group == "unranked"


def test_scenarios_that_all_have_the_same_seeds_of_their_own_are_compared(tmp_path: Path) -> None:
    own = {"seeds": [0, 1]}
    first = [cell for cell in FEDAVG4 + KRUM4 if cell[0]["seed"] < 2]
    rows = first + uneven({name: ROUNDS[name] for name in ("fedavg", "krum")}, ("fedavg", "krum"))
    board = board_with(tmp_path, rows, rounds=own, clean_rounds=own, aligned_start=own, clean=own)
    assert board.compared == ("aligned_start", "rounds")
    assert standing(board, "krum").metrics["safety"].count == 2
