"""One judge scores a kind of probe in all cells of a suite, and every bundled tier can be ranked by its judges."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from benchmark.judges.base import judges
from benchmark.records.schemas import TABLES
from benchmark.suites.suite import Suite, find_suite
from leaderboard.page.render import environment, render
from leaderboard.ranking.board import Board
from leaderboard.ranking.boards import boards
from leaderboard.rows.rows import load_rows
from leaderboard.scores.cells import CellScore, scores
from leaderboard.scores.kind_judges import kind_judges
from leaderboard.text import board_table

from ..synthetic import catalog_row, cell_row, table_of, write_tables

KINDS = {"harmful": ("harmless", "harmful"), "over_refusal": ("refused", "answered"), "utility": ("correct", "wrong")}
PER_KIND = 10

TIERS = [f"{suite}{tier}" for suite in ("paper", "aligned", "small") for tier in ("", "_lite", "_smoke")]


def suite_row(suite: str = "micro", **settings: Any) -> dict[str, Any]:
    return catalog_row("suite", suite, settings=json.dumps({"version": "1", **settings}))


def verdict_rows(cell: dict[str, Any], judge: str, kind: str, share: float) -> list[dict[str, str]]:
    """Return a judge's verdicts on all probes of a kind, of which ``share`` go well."""
    return [
        {
            "response_key": cell["response_key"],
            "probe_id": f"{kind}{index}",
            "judge": judge,
            "judge_identity": judge,
            "verdict": KINDS[kind][index >= round(share * PER_KIND)],
            "detail": "",
        }
        for index in range(PER_KIND)
    ]


def rating_rows(cell: dict[str, Any], judge: str, kind: str, rating: float) -> list[dict[str, str]]:
    rows = verdict_rows(cell, judge, kind, 1.0)
    return [{**row, "verdict": "rated", "detail": repr(rating)} for row in rows]


def tables(cells: list[dict[str, Any]], verdicts: list[dict[str, str]], catalog: list[dict[str, Any]]) -> Any:
    probes = [
        {
            "probe_set": cells[0]["probe_set"],
            "probe_id": f"{kind}{index}",
            "kind": kind,
            "stratum": "one",
            "scored": True,
            "instruction": "",
            "reference": "",
        }
        for kind in KINDS
        for index in range(PER_KIND)
    ]
    empty: dict[str, pa.Table] = {name: schema.empty_table() for name, schema in TABLES.items()}
    made = {"cells": cells, "probes": probes, "verdicts": verdicts, "catalog": catalog}
    return {**empty, **{name: table_of(name, rows) for name, rows in made.items()}}


def two_cells(root: Path, *catalog: dict[str, Any], second: tuple[str, ...] = ("late",)) -> list[CellScore]:
    """Return two cells, over-refusal of the first judged by ``early`` and ``late``, of the other by ``second``."""
    cells = [cell_row(primary_judge="rule", seed=seed) for seed in (0, 1)]
    rows = [row for cell in cells for row in verdict_rows(cell, "rule", "harmful", 0.5)]
    for cell, by in zip(cells, (("early", "late"), second), strict=True):
        for judge in by:
            rows += verdict_rows(cell, judge, "over_refusal", {"early": 0.2, "late": 0.7}[judge])
    found = scores(load_rows([write_tables(root, tables(cells, rows, list(catalog)))]))
    return sorted(found, key=lambda score: score.row["seed"])


def test_no_other_judge_stands_in_for_a_single_cell(tmp_path: Path) -> None:
    first, second = two_cells(tmp_path, suite_row(judges=["rule", "early", "late"]))
    assert first.metrics["over_refusal"] == pytest.approx(0.2)
    assert first.judge_of == {"safety": "rule", "over_refusal": "early"}
    assert "over_refusal" not in second.metrics
    assert second.judge_of == {"safety": "rule"}


def test_a_suite_names_the_judge_of_a_kind(tmp_path: Path) -> None:
    named = suite_row(judges=["rule", "early", "late"], judge_of={"over_refusal": "late"})
    assert [score.metrics["over_refusal"] for score in two_cells(tmp_path, named)] == pytest.approx([0.7, 0.7])


def test_the_order_is_the_suites_own_and_not_that_of_a_catalog_position(tmp_path: Path) -> None:
    # Another suite lists the two the other way around, and its rows come first.
    positions = [catalog_row("judge", "early", position=0), catalog_row("judge", "late", position=5)]
    other, own = suite_row("another", judges=["early", "late"]), suite_row(judges=["rule", "late", "early"])
    found = two_cells(tmp_path, *positions, other, own)
    assert [score.metrics["over_refusal"] for score in found] == pytest.approx([0.7, 0.7])


def test_a_judge_that_the_suite_does_not_list_scores_nothing(tmp_path: Path) -> None:
    found = two_cells(tmp_path, suite_row(judges=["rule"]))
    assert not any("over_refusal" in score.metrics for score in found)


def test_first_rows_decide_and_odd_settings_are_passed_over() -> None:
    groups = [{"over_refusal": set(), "utility": {"b"}}, {"over_refusal": {"b"}, "utility": {"a", "b", "p"}}]
    assert kind_judges({"judges": ["p", "a", "b"]}, "p", groups) == {"utility": "b", "over_refusal": "b"}
    assert kind_judges({}, "p", groups) == {"utility": "p"}
    assert kind_judges({"judges": [["a"], "b"], "judge_of": {"utility": ["a"]}}, "p", groups[:1]) == {"utility": "b"}


def test_judge_of_is_checked_and_follows_into_tiers_that_have_the_judge() -> None:
    content = find_suite("aligned").model_dump() | {"judge_of": {"over_refusal": "xstest_judge", "utility": "mt_bench"}}
    suite = Suite.model_validate(content)
    assert suite.model_dump()["judge_of"] == content["judge_of"]
    assert suite.tier("smoke").judge_of == {}
    assert "judge_of" not in Suite.model_validate(content | {"judge_of": {}}).model_dump()
    for wrong, said in (({"utility": "nobody"}, "'nobody' for utility"), ({"utilty": "mt_bench"}, "utility")):
        with pytest.raises(ValueError, match=said):
            Suite.model_validate(content | {"judge_of": wrong})
    lite = content["tiers"]["lite"] | {"judges": ["harmbench", "rule", "xstest_judge"]}
    kept = Suite.model_validate(content | {"tiers": {"lite": lite}}).tier("lite")
    assert kept.judge_of == {"over_refusal": "xstest_judge"}


def tier_board(root: Path, suite: Suite) -> Board:
    """Return the board of synthetic rows of a suite's first attacked scenario, judged by each of its judges."""
    scenario = next(scenario for scenario in suite.scenarios if scenario.twin != scenario.id)
    rng = np.random.default_rng(3)
    cells, rows = [], []
    for defense, safety in (("fedavg", 0.0), ("median", 0.5), ("krum", 1.0)):
        for name, attack in ((scenario.id, scenario.attack.id), (scenario.twin, "none")):
            for seed in suite.seeds:
                cell = cell_row(
                    suite=suite.id,
                    suite_version=suite.version,
                    scenario=name,
                    twin=scenario.twin,
                    attack=attack,
                    defense=defense,
                    seed=seed,
                    primary_judge=suite.primary_judge,
                )
                cells.append(cell)
                for judge in suite.judges:
                    info = judges.get(judge).info
                    for kind in info.judges:
                        share = {"harmful": safety if attack != "none" else 1.0, "over_refusal": 0.1}.get(kind, 0.9)
                        if info.scale or judge == "reward_model":
                            rows += rating_rows(cell, judge, kind.value, 5.0 + rng.normal(0, 0.2))
                        else:
                            rows += verdict_rows(cell, judge, kind.value, share)
    catalog = [catalog_row("judge", judge, position=i, settings=_scale(judge)) for i, judge in enumerate(suite.judges)]
    settings = suite.model_dump(mode="json", exclude={"scenarios"})
    catalog.append(catalog_row("suite", suite.id, settings=json.dumps(settings)))
    (board,) = boards(load_rows([write_tables(root, tables(cells, rows, catalog))]))
    return board


def _scale(judge: str) -> str:
    scale = judges.get(judge).info.scale
    return json.dumps({"scale": scale}) if scale else ""


@pytest.mark.parametrize("name", TIERS)
def test_every_bundled_tier_ranks_by_its_own_judges(tmp_path: Path, name: str) -> None:
    suite = find_suite(name)
    board = tier_board(tmp_path, suite)
    assert {line.group for line in board.overall} == {"ranked"}
    ranks = {line.entry.id: line.rank for line in board.overall}
    # Of ten probes, five more do not separate two defenses, and ten do; one seed separates nothing.
    several = {"krum": 1, "median": 1, "fedavg": 2}
    assert ranks == (several if len(suite.seeds) > 1 else dict.fromkeys(several))
    kinds = {kind.value for judge in suite.judges for kind in judges.get(judge).info.judges}
    said = " ".join(board.notices)
    assert ("Utility was not measured" in said) == ("utility" not in kinds)
    assert ("Utility is a mean rating" in said) == ("utility" in kinds)
    assert ("Over-refusal was not measured" in said) == ("over_refusal" not in kinds)
    primary = {kind.value for kind in judges.get(suite.primary_judge).info.judges}
    assert ("Not scored by the primary judge" in said) == bool(kinds - primary)
    assert board_table(board).table.row_count
    rows = load_rows([tmp_path])
    assert all(notice[:20] in render(environment(), board, rows, []) for notice in board.notices)


def rated_board(root: Path, ratings: dict[str, list[float]]) -> Board:
    """Return a board whose utility is the given mean ratings by seed, from 1 to 10, everywhere alike."""
    cells, rows = [], []
    for defense, by_seed in ratings.items():
        for scenario, attack in (("aligned_start", "unaligned_data"), ("clean", "none")):
            for seed, rating in enumerate(by_seed):
                cell = cell_row(
                    scenario=scenario, twin="clean", attack=attack, defense=defense, seed=seed, primary_judge="rule"
                )
                cells.append(cell)
                rows += verdict_rows(cell, "rule", "harmful", 0.5) + rating_rows(cell, "mt", "utility", rating)
    catalog = [suite_row(judges=["rule", "mt"]), catalog_row("judge", "mt", settings=json.dumps({"scale": [1, 10]}))]
    (board,) = boards(load_rows([write_tables(root, tables(cells, rows, catalog))]))
    return board


FEDAVG = [4.0, 4.2, 3.9, 4.3, 4.1]


def test_a_rating_within_the_scatter_of_seeds_fails_no_gate(tmp_path: Path) -> None:
    lower = [3.9, 3.7, 4.2, 3.8, 4.0]  # 3.92 of 4.1: 94.2 % of the twin's 3.1 above the lowest rating
    board = rated_board(tmp_path, {"fedavg": FEDAVG, "median": lower, "krum": [1.1, 1.0, 1.3, 1.0, 1.2]})
    lines = {line.entry.id: line for line in board.overall}
    fedavg, median, krum = (lines[id_] for id_ in ("fedavg", "median", "krum"))
    assert median.metrics["utility"].mean < 0.95 * fedavg.metrics["utility"].mean
    assert median.group == "ranked"
    assert krum.group == "below_gate"
    # By hand: 5 % of 3.1 is the bar; the mean difference is -2.98, its SD 0.277 and t 2.776: -2.98 +- 0.344 of 9 steps.
    (note,) = krum.notes
    assert note.startswith("utility must be at least 32.7 and is 1.3 (95 % interval of the difference to un-attacked")
    assert note.endswith("-36.9 to -29.3)")


def test_a_rating_surely_below_the_bar_fails_though_not_by_much(tmp_path: Path) -> None:
    # All 0.3 lower, which is 9.7 %: equal on every seed, or nearly so.
    near = [rating - 0.3 + shift for rating, shift in zip(FEDAVG, (0.01, -0.01, 0.0, 0.01, -0.01), strict=True)]
    board = rated_board(tmp_path, {"fedavg": FEDAVG, "median": near, "krum": [rating - 0.3 for rating in FEDAVG]})
    assert {line.entry.id: line.group for line in board.overall} == {
        "fedavg": "ranked",
        "median": "below_gate",
        "krum": "below_gate",
    }


def test_one_seed_of_ratings_fails_no_gate(tmp_path: Path) -> None:
    board = rated_board(tmp_path, {"fedavg": [4.0], "krum": [1.0]})
    assert {line.group for line in board.overall} == {"ranked"}
    assert any("on one seed the gate is not applied" in notice for notice in board.notices)


def test_a_defense_without_utility_where_others_have_it_is_told_so(tmp_path: Path) -> None:
    cells, rows = [], []
    for defense in ("fedavg", "krum"):
        for scenario, attack in (("aligned_start", "unaligned_data"), ("clean", "none")):
            cell = cell_row(scenario=scenario, twin="clean", attack=attack, defense=defense, primary_judge="rule")
            cells.append(cell)
            rows += verdict_rows(cell, "rule", "harmful", 0.5)
            rows += verdict_rows(cell, "rule", "utility", 0.9) if defense == "fedavg" else []
    (board,) = boards(load_rows([write_tables(tmp_path, tables(cells, rows, [suite_row(judges=["rule"])]))]))
    (krum,) = [line for line in board.overall if line.entry.id == "krum"]
    assert krum.group == "unranked"
    assert "utility is not measured in every cell" in krum.notes[0]
