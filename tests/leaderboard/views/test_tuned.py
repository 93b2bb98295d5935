"""Tuned attacks: they may lower one number of the defense that they were tuned against, and do nothing else."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.records.tuned import Budget, ChosenAttack, TunedAttack, add_tuned, committed_file, runs_file
from leaderboard.page.render import environment, render
from leaderboard.ranking.board import Board
from leaderboard.ranking.boards import boards
from leaderboard.rows.rows import Rows, load_rows
from leaderboard.scores.summaries import OVERALL
from leaderboard.view_table import view_csv

from ..by_hand import FEDAVG4, KRUM4, MEDIAN4, Cell, second_scenario, standing
from ..synthetic import catalog_row, cell_row, exact_rows, table_of, write_tables
from ..test_text import printed
from .test_best_known import board_of, committed

OWN_SAFETY = 0.8625
"""Krum's safety under the own attack of ``aligned_start``."""


def search(defense: str, *, lower: bool = True, scenario: str = "aligned_start", **changes: Any) -> TunedAttack:
    """Return the result of a search of 20 trials."""
    own = ChosenAttack(id="unaligned_data", params={}, safety=0.8)
    tuned = ChosenAttack(id="boosted_data", params={"boost": 3.5}, safety=0.1)
    content: dict[str, Any] = {
        "defense": defense,
        "scenario": scenario,
        "scenario_version": "1",
        "attack": tuned if lower else own,
        "own": own,
        "lower": lower,
        "runs_as": f"{scenario}_tuned_{defense}",
        "runs_as_version": "1, boost=3.5" if lower else "1",
        "budget": Budget(allowed=20, trials=20, infeasible=2, failed=0),
        "attacks": ("boosted_data", "unaligned_data"),
        "seeds": (1,),
        "prompts": "fresh, draw 0",
        "sampler": "TPE of optuna 5.0.0",
        "sampler_seed": 0,
        "search": "0" * 32,
        "versions": {"suite": "1"},
    }
    return TunedAttack(**content | changes)


def tuned_cells(result: TunedAttack, safeties: list[float], **changes: Any) -> list[Cell]:
    """Return the cells of a tuned attack by the safety of each seed."""
    names = {
        "scenario": result.runs_as,
        "scenario_version": result.runs_as_version,
        "attack": result.attack.id,
        "defense": result.defense,
    }
    return [
        (cell_row(**(names | {"seed": seed} | changes)), {"safety": safety, "utility": 0.9, "over_refusal": 0.1})
        for seed, safety in enumerate(safeties)
    ]


def write_tuned(root: Path, results: list[TunedAttack], rows: list[Cell]) -> None:
    """Write results of searches with their cells into committed results."""
    add_tuned(committed_file(root, "micro"), "micro", results)
    if not rows:
        return
    tables = exact_rows(rows)
    described = {(row["scenario"], row["defense"]) for row, _ in rows}
    tables["catalog"] = table_of(
        "catalog",
        [
            catalog_row("scenario", name, settings=json.dumps({"base": "aligned_start", "tuned_for": defense}))
            for name, defense in sorted(described)
        ],
    )
    write_tables(root / "micro" / "tuned", tables)


def without_worst_tuned(board: Board) -> str:
    """Return everything of a board that a tuned attack may not change."""
    views = (OVERALL, *board.by_scenario)
    lines = [
        (
            *(line.entry, line.group, line.rank, line.notes, line.better, line.tied, line.worst, line.best_known),
            {name: value for name, value in line.metrics.items() if name != "worst_tuned"},
        )
        for view in views
        for line in board.standings(view)
    ]
    families = {view: (family.ids, family.comparisons.adjusted.tolist()) for view, family in board.families.items()}
    parts = (board.scenarios, board.compared, board.excluded, board.seeds, board.judges, board.attacks, board.cells)
    return repr((lines, families, parts, board.detection, board.agreement, board.sensitivity, board.notices))


def test_a_tuned_attack_lowers_its_defense_in_its_scenario_alone(tmp_path: Path) -> None:
    before = board_of(load_rows([committed(tmp_path)]))
    assert not before.has_worst_tuned
    krum = search("krum")
    write_tuned(tmp_path, [krum], tuned_cells(krum, [0.2, 0.1, 0.2, 0.1]))
    board = board_of(load_rows([tmp_path]))
    assert without_worst_tuned(board) == without_worst_tuned(before)
    assert board.has_worst_tuned
    line = standing(board, "krum", "aligned_start").worst_tuned
    assert line is not None
    assert line.safety.mean == pytest.approx(0.15)
    assert line.safety.low < 0.15 < line.safety.high
    assert (line.scenario, line.attack, line.trials) == ("aligned_start", "boosted_data", 20)
    assert line.words == "by boosted_data, 20 trials"
    overall = standing(board, "krum").worst_tuned
    assert overall is not None
    assert overall.safety == line.safety
    assert overall.words == "by boosted_data, 20 trials in 1 of 2 scenarios"
    # No search was made for the others, nor in the other scenario.
    assert standing(board, "median", "aligned_start").worst_tuned is None
    assert standing(board, "krum", "paper_shape").worst_tuned is None


def test_a_search_that_found_nothing_lower_is_shown_with_the_scenarios_own_safety(tmp_path: Path) -> None:
    committed(tmp_path)
    write_tuned(tmp_path, [search("krum", lower=False)], [])
    line = standing(board_of(load_rows([tmp_path])), "krum", "aligned_start")
    assert line.worst_tuned is not None
    assert line.worst_tuned.safety == line.metrics["safety"]
    assert (line.worst_tuned.attack, line.worst_tuned.words) == ("", "20 trials found nothing lower")


def test_a_tuned_attack_that_is_not_lower_on_the_scored_seeds_leaves_the_own_safety(tmp_path: Path) -> None:
    committed(tmp_path)
    krum = search("krum", budget=Budget(allowed=20, trials=7, infeasible=0, failed=0))
    write_tuned(tmp_path, [krum], tuned_cells(krum, [1.0] * 4))
    line = standing(board_of(load_rows([tmp_path])), "krum", "aligned_start").worst_tuned
    assert line is not None
    assert line.safety.mean == pytest.approx(OWN_SAFETY)
    assert (line.attack, line.words) == ("", "7 of 20 trials, own is lower")


@pytest.mark.parametrize("safeties", [[], [0.0] * 3], ids=["no seed", "some seeds"])
def test_a_tuned_attack_without_all_scored_seeds_gives_no_value(tmp_path: Path, safeties: list[float]) -> None:
    committed(tmp_path)
    krum = search("krum")
    write_tuned(tmp_path, [krum], tuned_cells(krum, safeties))
    rows = load_rows([tmp_path])
    board = board_of(rows)
    assert board.has_worst_tuned
    assert standing(board, "krum", "aligned_start").worst_tuned is None
    text = " ".join(render(environment(), board, rows, [("index.html", board)]).split())
    assert "boost 3.5: not run on every scored seed yet" in text


@pytest.mark.parametrize(
    ("result", "changes", "words"),
    [
        ({"scenario_version": "0"}, {}, "The attack search against krum in aligned_start is of another version"),
        ({}, {"participants": 5}, "4 cells of the attack search against krum in aligned_start have another federation"),
        ({}, {"scenario_version": "1, boost=9"}, "4 cells of tuned attacks belong to no result of a search"),
    ],
    ids=["version", "federation", "parameters"],
)
def test_results_and_cells_that_do_not_fit_are_left_out_with_a_notice(
    tmp_path: Path, result: dict[str, Any], changes: dict[str, Any], words: str
) -> None:
    before = board_of(load_rows([committed(tmp_path)]))
    krum = search("krum", **result)
    write_tuned(tmp_path, [krum], tuned_cells(krum, [0.0] * 4, **changes))
    after = board_of(load_rows([tmp_path]))
    assert all(line.worst_tuned is None for line in after.overall)
    assert any(notice.startswith(words) for notice in after.notices)
    assert {line.entry.id: line.metrics for line in after.overall} == {
        line.entry.id: line.metrics for line in before.overall
    }


def test_own_searches_count_for_own_rows_alone(tmp_path: Path) -> None:
    """A reader's search does not change a published line, and neither does a published search an own one."""
    committed(tmp_path / "results")
    add_tuned(runs_file(tmp_path / "runs", "micro"), "micro", [search("krum", lower=False), search("new", lower=False)])
    rows = [*second_scenario("new", [0.6] * 4, origin="local")]
    rows += [(cell_row(defense="new", seed=seed, origin="local"), {"safety": 0.5}) for seed in range(4)]
    write_tables(tmp_path / "runs", exact_rows(rows))
    board = board_of(load_rows([tmp_path / "results"], local=[tmp_path / "runs"]))
    assert set(board.searches) == {("aligned_start", "new")}


def test_trials_below_a_folder_of_runs_are_no_rows_of_the_board(tmp_path: Path) -> None:
    committed(tmp_path / "results")
    trials = [(cell_row(defense="new", seed=seed, origin="local"), {"safety": 0.5}) for seed in range(4)]
    write_tables(tmp_path / "runs" / "attack_search" / "micro" / "aligned_start_tuned_new", exact_rows(trials))
    rows = load_rows([tmp_path / "results"], local=[tmp_path / "runs"])
    assert rows.local.cells.num_rows == 0


def test_the_cited_digest_covers_the_results_of_searches(tmp_path: Path) -> None:
    before = load_rows([committed(tmp_path)]).published_digest
    write_tuned(tmp_path, [search("krum", lower=False)], [])
    after = load_rows([tmp_path]).published_digest
    write_tuned(tmp_path, [search("krum", lower=False, sampler_seed=1)], [])
    assert len({before, after, load_rows([tmp_path]).published_digest}) == 3


def rows_with_search(root: Path) -> Rows:
    committed(root)
    krum = search("krum")
    write_tuned(root, [krum, search("fedavg", lower=False)], tuned_cells(krum, [0.2] * 4))
    return load_rows([root])


def test_the_terminal_and_the_downloads_name_attack_and_budget(tmp_path: Path) -> None:
    rows = rows_with_search(tmp_path)
    text = printed(rows)
    assert "tuned: the lowest safety under a scenario's own attack" in " ".join(text.split())
    lines = {line["defense"]: line for line in csv.DictReader(view_csv(board_of(rows)).decode().splitlines())}
    names = ("worst_tuned", "worst_tuned_attack", "worst_tuned_params", "worst_tuned_trials", "worst_tuned_searches")
    assert [lines["krum"][name] for name in names] == ["0.2", "boosted_data", "boost=3.5", "20", "1"]
    assert [lines["fedavg"][name] for name in names[1:]] == ["", "", "20", "1"]
    assert [lines["median"][name] for name in names] == [""] * 5


def test_the_page_has_the_column_with_the_budget_and_a_dash_without_a_search(tmp_path: Path) -> None:
    rows = rows_with_search(tmp_path / "a")
    board = board_of(rows)
    text = render(environment(), board, rows, [("index.html", board)])
    assert 'data-key="worst_tuned"' in text
    assert '<span class="word">by boosted_data, 20 trials in 1 of 2 scenarios</span>' in text
    assert '"tuned":{"*":{' in text
    assert "2 of them failed a gate; <code>boosted_data</code> boost 3.5: safety 20.0 %" in " ".join(text.split())
    lines = [part for part in text.split("<tr") if 'data-c="worst_tuned"' in part]
    (median,) = (part for part in lines if 'data-c="name" data-v="median"' in part)
    assert '<td data-c="worst_tuned" data-v=""><span class="n">\N{EN DASH}</span>' in median
    plain = load_rows([committed(tmp_path / "b")])
    assert "worst_tuned" not in render(environment(), board_of(plain), plain, [("index.html", board_of(plain))])


SHARES = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])
SEARCHES = st.dictionaries(
    st.sampled_from(["fedavg", "median", "krum"]), st.none() | st.lists(SHARES, min_size=1, max_size=5), max_size=3
)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(found=SEARCHES)
@pytest.mark.slow
def test_searches_only_ever_lower_and_change_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, found: dict[str, list[float] | None]
) -> None:
    with TemporaryDirectory(dir=tmp_path_factory.getbasetemp()) as scratch:
        root = Path(scratch)
        write_tables(root / "micro", exact_rows(FEDAVG4 + MEDIAN4 + KRUM4))
        before = boards(load_rows([root]))[0]
        results = {defense: search(defense, lower=safeties is not None) for defense, safeties in found.items()}
        rows = [cell for name, safeties in found.items() for cell in tuned_cells(results[name], safeties or [])]
        write_tuned(root, list(results.values()), rows)
        after = board_of(load_rows([root]))
    assert without_worst_tuned(after) == without_worst_tuned(before)
    for line in after.overall:
        own = line.metrics["safety"]
        safeties = found.get(line.entry.id)
        scored = line.entry.id in found and (safeties is None or len(safeties) >= 4)
        assert (line.worst_tuned is not None) == scored
        if line.worst_tuned is not None:
            expected = own.mean if safeties is None else min(own.mean, sum(safeties[:4]) / 4)
            assert line.worst_tuned.safety.mean == pytest.approx(expected)
            assert line.worst_tuned.safety.mean <= own.mean
            assert line.metrics["worst_tuned"] is line.worst_tuned.safety
