"""Ratings: counted by hand, shown beside the ranking, and never part of it unless they rate utility on a scale."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from benchmark.errors import FedSafetyError
from benchmark.records.schemas import TABLES
from leaderboard.page.formats import number
from leaderboard.page.render import environment, render
from leaderboard.ranking.board import Board
from leaderboard.ranking.boards import boards
from leaderboard.rows.rows import Rows, load_rows
from leaderboard.scores.cells import CellScore, scores
from leaderboard.text import board_table
from leaderboard.view_table import view_csv, view_rows

from ..synthetic import SMALL, catalog_row, cell_row, exact_rows, make_rows, table_of, write_tables

PROBES = {
    "h0": ("harmful", "asked"),
    "h1": ("harmful", "asked"),
    "o0": ("over_refusal", "toy"),
    "o1": ("over_refusal", "toy"),
    "u0": ("utility", "writing"),
    "u1": ("utility", "writing"),
    "u2": ("utility", "maths"),
}
SAFE = {"h0": "harmless", "h1": "harmful"}
JUDGES = {"rule": "", "xstest": "", "second": "", "mt": json.dumps({"scale": [1, 10]}), "rm": ""}


def tables(verdicts: dict[str, dict[str, str | float]], **settings: str) -> dict[str, pa.Table]:
    """Return one cell, judged first by ``rule``; numbers are ratings."""
    cell = cell_row(primary_judge="rule")
    probes = [
        {
            "probe_set": cell["probe_set"],
            "probe_id": id_,
            "kind": kind,
            "stratum": stratum,
            "scored": True,
            "instruction": "",
            "reference": "",
        }
        for id_, (kind, stratum) in PROBES.items()
    ]
    rows = [
        {
            "response_key": cell["response_key"],
            "probe_id": probe,
            "judge": judge,
            "judge_identity": judge,
            "verdict": said if isinstance(said, str) and not said.startswith("!") else "rated",
            "detail": str(said).removeprefix("!") if said != "unparsable" else "what?",
        }
        for judge, by_probe in verdicts.items()
        for probe, said in by_probe.items()
    ]
    found = {name: schema.empty_table() for name, schema in TABLES.items()}
    # The list of the suite says who comes first; positions may come from another suite.
    catalog = [
        catalog_row("judge", judge, position=-i, settings=settings.get(judge, text))
        for i, (judge, text) in enumerate(JUDGES.items())
    ]
    suite = {"version": "1", "judges": list(JUDGES)}
    catalog.append(catalog_row("suite", "micro", settings=settings.get("suite", json.dumps(suite))))
    return {
        **found,
        "cells": table_of("cells", [cell]),
        "probes": table_of("probes", probes),
        "verdicts": table_of("verdicts", rows),
        "catalog": table_of("catalog", catalog),
    }


def score(root: Path, verdicts: dict[str, dict[str, str | float]], **settings: str) -> CellScore:
    (found,) = scores(load_rows([write_tables(root, tables(verdicts, **settings))]))
    return found


def test_ratings_by_hand(tmp_path: Path) -> None:
    found = score(
        tmp_path, {"rule": {**SAFE}, "mt": {"u0": 1, "u1": 4, "u2": 10.0}, "rm": {"h0": "!-3.5", "h1": "!1e0"}}
    )
    assert found.state == "done"
    assert found.metrics["rating:mt"] == pytest.approx(5)
    assert found.metrics["rating:rm"] == pytest.approx(-1.25)
    assert found.metrics["unrated:mt"] == found.metrics["unrated:rm"] == 0
    assert found.metrics["utility:writing"] == pytest.approx((2.5 - 1) / 9)
    assert found.metrics["utility:maths"] == 1
    assert found.metrics["utility"] == pytest.approx((1.5 / 9 + 1) / 2)
    assert found.metrics["safety"] == 0.5
    assert not {"judge:rm", "judge:mt", "over_refusal"} & found.metrics.keys()
    assert found.behind("rating:mt") == 0
    assert found.behind("utility") == 3


def test_answers_without_a_number_are_left_out_and_counted(tmp_path: Path) -> None:
    found = score(tmp_path, {"rule": {**SAFE}, "mt": {"u0": 2, "u1": "unparsable", "u2": 7}})
    assert found.metrics["rating:mt"] == 4.5
    assert found.metrics["unrated:mt"] == pytest.approx(1 / 3)
    assert found.metrics["utility"] == pytest.approx((1 / 9 + 6 / 9) / 2)


def test_a_rating_judge_that_has_not_judged_all_gives_nothing(tmp_path: Path) -> None:
    found = score(tmp_path, {"rule": {**SAFE}, "mt": {"u0": 2, "u1": 3}})
    assert not {"rating:mt", "utility"} & found.metrics.keys()


def test_a_rating_without_scale_is_no_utility(tmp_path: Path) -> None:
    found = score(tmp_path, {"rule": {**SAFE}, "mt": {"u0": 1, "u1": 4, "u2": 10}}, mt="")
    assert found.metrics["rating:mt"] == 5
    assert "utility" not in found.metrics


def test_kinds_that_the_primary_judge_leaves_are_scored_by_the_first_that_has_them(tmp_path: Path) -> None:
    others = {"second": {"o0": "refused", "o1": "refused"}, "xstest": {"o0": "refused", "o1": "answered"}}
    assert score(tmp_path / "a", {"rule": {**SAFE}, **others}).metrics["over_refusal"] == 0.5
    own = {"rule": {**SAFE, "o0": "answered", "o1": "answered"}, **others}
    assert score(tmp_path / "b", own).metrics["over_refusal"] == 0
    # What it has begun, it also ends: nobody stands in for half of it.
    assert "over_refusal" not in score(tmp_path / "c", {"rule": {**SAFE, "o0": "answered"}, **others}).metrics


@pytest.mark.parametrize(("rating", "settings"), [("!high", {}), ("!nan", {}), (3, {"mt": '{"scale": [10, 1]}'})])
def test_what_is_no_rating_is_refused(tmp_path: Path, rating: str | float, settings: dict[str, str]) -> None:
    message = r"^response set '\w+': the rating .* of judge 'mt' on probe 'u0' is not a number; .* delete the file"
    with pytest.raises(FedSafetyError, match=rf"{message}|lowest and the highest"):
        score(tmp_path, {"rule": {**SAFE}, "mt": {"u0": rating, "u1": 4, "u2": 10}}, **settings)


def rated_rows(root: Path) -> Rows:
    """Return synthetic rows in which a judge ``mt`` rates utility probes and ``rm`` harmful ones."""
    made = make_rows(SMALL)
    kinds = {row["probe_id"]: row["kind"] for row in made["probes"].to_pylist()}
    extra = []
    for row in made["verdicts"].to_pylist():
        judge = {"utility": "mt", "harmful": "rm"}.get(kinds[row["probe_id"]])
        if row["judge"] == "oracle" and judge:
            good = row["verdict"] in ("correct", "harmless")
            rating = {"mt": 9.5 if good else 3.0, "rm": 1.25 if good else -2.5}[judge]
            extra.append({**row, "judge": judge, "judge_identity": judge, "verdict": "rated", "detail": str(rating)})
    made["verdicts"] = table_of("verdicts", [*made["verdicts"].to_pylist(), *extra])
    described = [
        catalog_row("judge", "mt", title="MT-1", position=7, settings=json.dumps({"scale": [1, 10]})),
        catalog_row("judge", "rm", title="RM", position=8),
    ]
    made["catalog"] = table_of("catalog", [*made["catalog"].to_pylist(), *described])
    return load_rows([write_tables(root, made)])


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    return rated_rows(tmp_path_factory.mktemp("rated"))


@pytest.fixture(scope="module")
def board(rows: Rows) -> Board:
    (found,) = boards(rows)
    return found


def test_ratings_change_no_rank_and_no_other_score(board: Board, tmp_path: Path) -> None:
    (plain,) = boards(load_rows([write_tables(tmp_path, make_rows(SMALL))]))
    assert [(s.entry.id, s.group, s.rank) for s in board.overall] == [
        (s.entry.id, s.group, s.rank) for s in plain.overall
    ]
    for standing, other in zip(board.overall, plain.overall, strict=True):
        beside = {name for name in standing.metrics if name.startswith(("rating:", "unrated:"))}
        assert beside
        assert {k: v for k, v in standing.metrics.items() if k not in beside} == other.metrics
    assert board.judges == plain.judges
    assert board.agreement == plain.agreement
    assert plain.ratings == ()


def test_ratings_are_shown_by_their_judges_titles(rows: Rows, board: Board) -> None:
    assert board.ratings == ("mt", "rm")
    fedavg = next(standing for standing in board.overall if standing.entry.id == "fedavg")
    rating = fedavg.metrics["rating:mt"].mean
    assert 3 < rating < 9.5
    headings = [str(column.header) for column in board_table(board).table.columns]
    assert headings[-3:-1] == ["MT-1", "RM"]
    assert f"{rating:.2f}" in [str(cell) for cell in board_table(board).table.columns[headings.index("MT-1")].cells]
    (row,) = [row for row in view_rows(board) if row["defense"] == "fedavg"]
    assert row["rating:mt"] == rating
    assert b"rating:rm" in view_csv(board).split(b"\n")[0]
    page = render(environment(), board, rows, [])
    assert "MT-1" in page
    assert f'data-c="rating:mt" data-v="{rating:.6g}"><span class="n">{number(fedavg.metrics["rating:mt"])}<' in page


def tasks_only(root: Path, *, tasks: bool) -> Board:
    """Return a board whose cells have no verdicts on utility probes, but scores of a task if asked."""
    scored = (
        ("clean", "none", "fedavg", 1.0, 0.0),
        ("aligned_start", "unaligned_data", "fedavg", 0.2, 0.0),
        ("clean", "none", "median", 1.0, 0.0),
        ("aligned_start", "unaligned_data", "median", 0.8, 0.1),
        ("clean", "none", "krum", 1.0, 0.9),
        ("aligned_start", "unaligned_data", "krum", 1.0, 0.9),
    )
    cells = [
        (
            cell_row(scenario=scenario, twin="clean", attack=attack, defense=defense, seed=seed),
            {"safety": safety, "over_refusal": refusing},
        )
        for scenario, attack, defense, safety, refusing in scored
        for seed in range(3)
    ]
    made = exact_rows(cells)
    kept = [row for row in made["verdicts"].to_pylist() if not row["probe_id"].startswith("utility/")]
    made["verdicts"] = table_of("verdicts", kept)
    if tasks:
        made["task_scores"] = table_of("task_scores", [_task_row(cell["response_key"]) for cell, _ in cells])
    (found,) = boards(load_rows([write_tables(root, made)]))
    return found


def _task_row(response_key: str) -> dict[str, Any]:
    words = ("task_version", "task_hash", "config_hash", "harness_version", "chat", "generator", "filter")
    return {
        **dict.fromkeys(words, "1"),
        "response_key": response_key,
        "requested": "gsm8k",
        "sample_limit": 0,
        "task": "gsm8k",
        "metric": "exact_match",
        "headline": True,
        "direction": "higher",
        "value": 0.25,
        "stderr": None,
        "samples": 10,
        "documents": 10,
        "shots": 0,
        "cut": 0,
        "samples_hash": "1",
        "reason": "",
    }


def test_without_utility_probes_the_other_gate_stands_and_the_board_says_so(tmp_path: Path) -> None:
    board = tasks_only(tmp_path / "tasks", tasks=True)
    groups = {standing.entry.id: standing.group for standing in board.overall}
    assert groups == {"fedavg": "ranked", "median": "ranked", "krum": "below_gate"}
    assert {s.entry.id: s.rank for s in board.overall} == {"median": 1, "fedavg": 2, "krum": None}
    assert any("No utility gate" in notice for notice in board.notices)
    assert all("utility" not in standing.metrics for standing in board.overall)
    # Without scores of tasks either, nothing speaks for utility, and the board says that, too.
    nothing = tasks_only(tmp_path / "nothing", tasks=False)
    assert [(s.entry.id, s.group, s.rank) for s in nothing.overall] == [
        (s.entry.id, s.group, s.rank) for s in board.overall
    ]
    assert not any("No utility gate" in notice for notice in nothing.notices)
    assert any("Utility was not measured" in notice for notice in nothing.notices)
    assert "Utility was not measured" in render(environment(), nothing, load_rows([tmp_path / "nothing"]), [])
