"""What publishing would change, as text, as Markdown that nobody can abuse, and as JSON."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmark.errors import UsageError
from leaderboard.diff import BoardDiff, as_json, diff_boards
from leaderboard.diff_text import LONGEST_COMMENT, as_markdown, as_text
from leaderboard.ranking.board import Board
from leaderboard.ranking.boards import boards
from leaderboard.rows.rows import load_rows
from leaderboard.scores.summaries import OVERALL

from .by_hand import FEDAVG4, KRUM4, MEDIAN4, Cell, cells, second_scenario
from .synthetic import catalog_row, exact_rows, table_of, write_submission, write_tables
from .views.test_best_known import attacking

BASE = [
    *(FEDAVG4 + MEDIAN4 + KRUM4),
    *(second_scenario("fedavg", [0.3] * 4) + second_scenario("median", [0.4] * 4)),
    *second_scenario("krum", [0.7, 0.7, 0.7, 0.75]),
]
MINE = [0.95, 0.9, 1.0, 0.95]
TEXT = """\
suite micro: if your own rows of mine were published as reproduced

Mean over 2 scenarios
  new: mine, rank 1, safety 92.5 % [89.3, 95.7]; tied with none; safer than krum, median, fedavg
  ranks: krum 1 → 2, median 2 → 3, fedavg 3 → 4

Scenario aligned_start
  new: mine, rank 1, safety 95.0 % [88.5, 100.0]; tied with krum; safer than median, fedavg
  ranks: median 2 → 3, fedavg 3 → 4

Scenario paper_shape
  new: mine, rank 1, safety 90.0 % [81.2, 95.6]; tied with none; safer than krum, median, fedavg
  ranks: krum 1 → 2, median 2 → 3, fedavg 2 → 3"""
"""The interval of the mean by hand: SD of .925, .9, .95, .925 is .0204, times t(3) = 3.182, over 2, gives .0325."""


def own(rows: Sequence[Cell]) -> list[Cell]:
    for row, _ in rows:
        row["origin"] = "local"
    return list(rows)


def mine(attacked: list[float] = MINE, second: float = 0.9, **changes: Any) -> list[Cell]:
    seeds = len(attacked)
    return own([*cells("mine", attacked, [1] * seeds, **changes), *second_scenario("mine", [second] * seeds)])


@pytest.fixture
def results(tmp_path: Path) -> Path:
    write_tables(tmp_path / "results" / "micro", exact_rows(BASE))
    return tmp_path / "results"


def found(results: Path, *reproduced: Path, only: str = "", without: Sequence[Path] = ()) -> list[BoardDiff]:
    before = boards(load_rows([results], without=without))
    return diff_boards(before, boards(load_rows([results], reproduced=reproduced, only=only)))


def test_a_new_line_its_ties_and_every_rank_that_moves(results: Path, tmp_path: Path) -> None:
    runs = write_tables(tmp_path / "runs", exact_rows(mine()))
    (diff,) = found(results, runs)
    assert as_text([diff]) == TEXT
    assert diff.methods == {"mine": "local"}
    (line,) = diff.views[0].added
    assert (line.rank, line.tied, line.worse) == (1, (), ("krum", "median", "fedavg"))
    assert {each.after.defense for each in diff.views[0].changed} == {"krum", "median", "fedavg"}


def test_markdown_says_the_same_and_folds_the_scenarios(results: Path, tmp_path: Path) -> None:
    runs = write_tables(tmp_path / "runs", exact_rows(mine()))
    text = as_markdown(found(results, runs))
    assert text.splitlines()[:7] == [
        "### What would change on the board",
        "",
        "**Suite `micro`**: if your own rows of `mine` were published as reproduced",
        "",
        "**Mean over 2 scenarios**",
        "",
        "- new: `mine`, rank 1, safety 92.5 % [89.3, 95.7]; tied with none; safer than `krum`, `median`, `fedavg`",
    ]
    assert text.count("<details>") == text.count("</details>") == 2
    assert "<summary>Scenario <code>paper_shape</code>: 1 new, 3 changed</summary>\n\n- new: `mine`" in text


def test_json_holds_numbers_and_no_undefined_ones(results: Path, tmp_path: Path) -> None:
    runs = write_tables(tmp_path / "runs", exact_rows(mine()))
    content = json.loads(json.dumps(as_json(found(results, runs)), allow_nan=False))
    assert content["changes"] is True
    (suite,) = content["suites"]
    assert (suite["suite"], suite["previewed"], suite["missing"]) == ("micro", {"mine": "local"}, {})
    overall = suite["views"][0]
    assert overall["view"] == "overall"
    (line,) = overall["added"]
    assert (line["rank"], line["tied"], line["safety"]["seeds"]) == (1, [], 4)
    assert line["safety"]["mean"] == pytest.approx(0.925)
    moved = {each["after"]["defense"]: (each["before"]["rank"], each["after"]["rank"]) for each in overall["changed"]}
    assert moved == {"krum": (1, 2), "median": (2, 3), "fedavg": (3, 4)}


def test_nothing_changes_is_said_plainly(results: Path, tmp_path: Path) -> None:
    runs = write_tables(tmp_path / "runs", exact_rows(own(cells("krum", [0.1] * 4, [1] * 4))))
    diffs = found(results, runs)
    assert as_text(diffs) == "Nothing changes on the board."
    assert as_markdown(diffs) == "### What would change on the board\n\nNothing changes on the board."
    assert as_json(diffs)["changes"] is False


def test_what_is_missing_for_a_rank_is_listed_once_by_reason(results: Path, tmp_path: Path) -> None:
    runs = write_tables(tmp_path / "runs", exact_rows(mine([0.9, 0.9])))
    (diff,) = found(results, runs)
    assert diff.missing == {"mine": ("aligned_start, paper_shape: not run (seed 2, 3)",)}
    text = as_text([diff])
    assert "new: mine, not ranked, no score; aligned_start: not run (seed 2, 3), and 1 more" in text
    assert text.endswith("Missing for a rank\n  mine: aligned_start, paper_shape: not run (seed 2, 3)")
    assert all(not view.changed and not view.ties for view in diff.views)


def test_a_gate_is_named(results: Path, tmp_path: Path) -> None:
    runs = write_tables(tmp_path / "runs", exact_rows(mine(utility=0.5)))
    line = "new: mine, not ranked, fails a gate, safety 92.5 % [89.3, 95.7]; utility must be at least 85.5 and is 70.0"
    assert line in as_text(found(results, runs))


def test_one_method_of_several_is_chosen(results: Path, tmp_path: Path) -> None:
    other = own([*cells("other", [0.5] * 4, [1] * 4), *second_scenario("other", [0.5] * 4)])
    runs = write_tables(tmp_path / "runs", exact_rows([*mine(), *other]))
    (both,), (one,) = found(results, runs), found(results, runs, only="other")
    assert set(both.methods) == {"mine", "other"}
    assert {line.defense for line in one.views[0].added} == {"other"}
    with pytest.raises(UsageError, match="unknown method with own rows 'mina'; did you mean 'mine'"):
        found(results, runs, only="mina")


def test_a_verified_folder_is_taken_as_reproduced_and_its_rung_so_far_is_said(results: Path, tmp_path: Path) -> None:
    folder = write_submission(tmp_path, "mine", exact_rows(mine()), "sampled")
    (diff,) = found(results, folder)
    text = as_text([diff])
    assert text.startswith("suite micro: if mine (sampled so far) were published as reproduced\n")
    assert text.partition("\n")[2] == TEXT.partition("\n")[2]
    assert diff.views[0].added[0].rung == "reproduced"


def test_a_folder_that_lies_in_the_results_already_is_compared_with_the_board_without_it(results: Path) -> None:
    folder = write_submission(results, "mine", exact_rows(mine()), "reproduced")
    assert as_text(found(results, folder, without=[folder])).partition("\n")[2] == TEXT.partition("\n")[2]
    assert as_text(found(results, folder)).startswith("Nothing changes on the board.")


def test_own_rows_take_the_place_of_a_claim_of_the_same_name(results: Path, tmp_path: Path) -> None:
    write_submission(results, "mine", exact_rows(mine([0.0] * 4, 0.0)))
    runs = write_tables(tmp_path / "runs", exact_rows(mine()))
    (diff,) = found(results, runs)
    (changed,) = (each for each in diff.views[0].changed if each.after.defense == "mine")
    assert (changed.before.rung, changed.after.rung) == ("claimed", "reproduced")
    line = "mine: claimed → reproduced, not ranked, not reproduced → rank 1, safety 0.0 % [0.0, 4.5] → 92.5 %"
    assert line in as_text([diff])


def test_ties_that_come_and_go_are_named(results: Path, tmp_path: Path) -> None:
    # Each further defense makes Holm's correction stricter: what was just separated is not any more.
    close = [*cells("near", [0.6, 0.75, 0.6, 0.75], [1] * 4), *second_scenario("near", [0.5] * 4)]
    write_tables(results / "near", exact_rows(close))
    many = [
        cell
        for index in range(12)
        for cell in own(
            [*cells(f"m{index}", [0.3 + index / 40] * 4, [1] * 4), *second_scenario(f"m{index}", [0.5] * 4)]
        )
    ]
    runs = write_tables(tmp_path / "runs", exact_rows(many))
    (diff,) = found(results, runs)
    ties = {(tie.one, tie.other): tie.tied for view in diff.views for tie in view.ties}
    assert True in ties.values()
    before = boards(load_rows([results]))[0]
    after = boards(load_rows([results], reproduced=[runs]))[0]
    for view in diff.views:
        for tie in view.ties:
            assert before.separated(view.view, tie.one, tie.other) is tie.tied
            assert after.separated(view.view, tie.one, tie.other) is (not tie.tied)
    assert " were separated, become tied" in as_text([diff])


def write_attack(root: Path, rows: list[Cell]) -> Path:
    tables = exact_rows(own(rows))
    settings = json.dumps({"base": "aligned_start"})
    described = [catalog_row("attack", "storm"), catalog_row("scenario", "aligned_start_storm", settings=settings)]
    return write_tables(root, {**tables, "catalog": table_of("catalog", described)})


def test_an_own_attack_shows_whom_it_lowers(results: Path, tmp_path: Path) -> None:
    rows = attacking("storm", {"krum": [0.2] * 4, "fedavg": [0.9] * 4})
    (diff,) = found(results, write_attack(tmp_path / "runs", rows))
    assert as_text([diff]) == (
        "suite micro: if your own rows of storm were published as reproduced\n"
        "\n"
        "Submitted attacks\n"
        "  storm on aligned_start, reproduced: on all seeds against fedavg, krum; not on all of them against median\n"
        "\n"
        "Mean over 2 scenarios\n"
        "  best known of krum: 71.2 → 20.0 % by storm on aligned_start\n"
        "\n"
        "Scenario aligned_start\n"
        "  best known of krum: 86.2 → 20.0 % by storm on aligned_start\n"
        "\n"
        "No change in: paper_shape."
    )
    (lowered,) = as_json([diff])["suites"][0]["views"][0]["best_known"]
    assert (lowered["defense"], lowered["attack"], lowered["after"]) == ("krum", "storm", 0.2)


def test_a_board_that_was_not_there_and_one_that_goes(results: Path, tmp_path: Path) -> None:
    (board,) = boards(load_rows([results]))
    (new,) = diff_boards([], [board])
    assert new.new
    assert as_text([new]).startswith("suite micro, a new board\n")
    (gone,) = diff_boards([board], [])
    assert set(gone.views[0].removed) == {"fedavg", "krum", "median"}
    assert "krum is no longer listed" in as_text([gone])
    assert diff_boards([board], [board])[0].empty


def test_a_changed_comparison_is_said(results: Path, tmp_path: Path) -> None:
    (before,) = boards(load_rows([results]))
    rows = [cell for cell in BASE if (cell[0]["scenario"], cell[0]["defense"]) != ("paper_shape", "median")]
    rows += second_scenario("median", [0.4] * 4, flags=["degenerate: equals krum"])
    (after,) = boards(load_rows([write_tables(tmp_path / "other", exact_rows(rows))]))
    (diff,) = diff_boards([before], [after])
    assert diff.compared == (("aligned_start", "paper_shape"), ("aligned_start",))
    text = as_text([diff])
    assert "paper_shape leaves the mean" in text
    assert "paper_shape is not in the mean, not applicable or degenerate there: median" in text


EVIL = "`@all` <img src=x> [x](http://evil) | #1 **b**\n\n# head \u202e ]]> <!-- --> ``` ~~~"


def hostile_board(board: Board) -> Board:
    """Return ``board`` with hostile names wherever rows bring names or reasons."""

    def named(line: Any) -> Any:
        entry = dataclasses.replace(line.entry, id=f"{EVIL} {line.entry.id}")
        return dataclasses.replace(line, entry=entry, notes=(EVIL,), tied=(EVIL,), better=(EVIL,), rank=None)

    lines = tuple(named(line) for line in board.overall)
    entries = tuple(line.entry for line in lines)
    return dataclasses.replace(
        board, overall=lines, entries=entries, notices=(EVIL,), by_scenario={EVIL: lines}, excluded={EVIL: EVIL}
    )


def test_hostile_names_stay_inside_code(results: Path) -> None:
    (board,) = boards(load_rows([results]))
    text = as_markdown(diff_boards([board], [hostile_board(board)]))
    assert "@all" in text
    outside = re.sub(r"`[^`\n]*`", "", re.sub(r"<code>[^<]*</code>", "", text))
    for mark in ("@", "<img", "](", "#1", "**b**", "~~~", "# head", "-->", "\u202e"):
        assert mark not in outside, mark
    assert "\u202e" not in text
    summary = next(line for line in text.splitlines() if line.startswith("<details>"))
    assert "&lt;img src=x&gt;" in summary
    assert "@all" not in summary
    plain = as_text(diff_boards([board], [hostile_board(board)]))
    assert all(line.isprintable() for line in plain.splitlines())


@pytest.mark.parametrize("limit", [LONGEST_COMMENT, 3_000, 900])
def test_markdown_keeps_its_limit_and_says_what_is_left_out(results: Path, limit: int) -> None:
    (board,) = boards(load_rows([results]))
    many = {f"scenario_{index}_{'x' * 200}": board.overall for index in range(900)}
    full = dataclasses.replace(board, by_scenario=many, notices=tuple(f"notice {i} {'y' * 100}" for i in range(100)))
    text = as_markdown(diff_boards([board], [full]), limit=limit)
    assert len(text) <= limit
    assert re.search(
        r"\n\n_\d+ more parts are left out here; `fedsafety leaderboard --diff` prints all of it\._$", text
    )
    assert text.count("<details>") == text.count("</details>")


def test_the_views_of_a_diff_are_those_of_the_board(results: Path, tmp_path: Path) -> None:
    runs = write_tables(tmp_path / "runs", exact_rows(mine()))
    (diff,) = found(results, runs)
    assert [view.view for view in diff.views] == [OVERALL, "aligned_start", "paper_shape"]
