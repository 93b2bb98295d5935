from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmark.errors import FedSafetyError
from benchmark.suites.suite import suites
from leaderboard.ranking.boards import boards
from leaderboard.rows.catalog import settings_of
from leaderboard.rows.rows import load_rows
from leaderboard.scores.cells import CellScore
from leaderboard.scores.summaries import NOT_RUN, Scenario, Summary
from leaderboard.views.sensitivity import Axis, Cell, Line, axes

from ..synthetic import catalog_row, cell_row, exact_rows, table_of, write_tables

RESULTS = Path(__file__).parents[3] / "results"


def _settings(points: Sequence[Mapping[str, Any]], **changes: Any) -> dict[str, Any]:
    axis = {"id": "share", "title": "Share", "unit": "%", "description": "One paragraph.", "base": "main"}
    axis |= {"defenses": [], "points": points} | changes
    return {"sensitivity": {"seeds": [1, 2], "defenses": ["fedavg", "krum"], "axes": [axis]}}


def _scenarios(*names: str) -> dict[str, Scenario]:
    return {
        name: Scenario(name, name if name.startswith("clean") else f"clean_{name}", "", {}, {})
        for name in (*names, *(f"clean_{name}" for name in names))
    }


def _done(safety: Mapping[int, float], **changes: Any) -> Summary:
    cells = {seed: CellScore(cell_row(seed=seed), "done", "", {"safety": value}) for seed, value in safety.items()}
    values = {"safety": safety, "drop": {seed: 1 - value for seed, value in safety.items()}}
    return Summary("done", cells=cells, values=values, gate=("fails",), **changes)


def _axes(settings: Mapping[str, Any], found: Mapping[tuple[str, str], Summary]) -> tuple[Axis, ...]:
    names = {name for name, _ in found}
    return axes(
        settings,
        _scenarios(*sorted(name for name in names if not name.startswith("clean"))),
        lambda scenario, defense, _: found.get((scenario.id, defense), Summary(NOT_RUN, ("not run in this scenario",))),
        "fedavg",
    )


POINTS = [{"value": 10, "scenario": None, "id": "ten"}, {"value": 30, "scenario": "main", "id": None}]


def test_points_are_on_the_seeds_that_all_share() -> None:
    [axis] = _axes(
        _settings(POINTS),
        {
            ("ten", "fedavg"): _done({1: 0.2, 2: 0.4}),
            ("main", "fedavg"): _done({1: 0.1, 2: 0.3, 3: 0.9, 4: 0.9}),
            ("main", "krum"): _done({1: 0.8, 2: 0.6, 3: 0.9, 4: 0.9}),
            ("clean_main", "fedavg"): _done({1: 0.9, 2: 1.0, 3: 0.2}),
        },
    )
    assert axis.seeds == (1, 2)
    ten, main = axis.points
    assert (ten.label, ten.value, ten.scenario, ten.twin, ten.base) == ("10 %", 10, "ten", "clean_ten", False)
    assert (main.base, main.twin) == (True, "clean_main")
    assert main.cells["fedavg"].metrics["safety"].mean == pytest.approx(0.2)
    assert main.cells["fedavg"].metrics["drop"].mean == pytest.approx(0.8)
    assert main.cells["krum"].metrics["safety"].count == 2
    assert main.cells["krum"].summary.gate is None
    assert main.twins["fedavg"].metrics["safety"].mean == pytest.approx(0.95)
    assert list(main.twins) == ["fedavg"]
    assert axis.numeric
    assert axis.started


def test_missing_cells_say_why_and_are_not_interpolated() -> None:
    points = [*POINTS, {"value": 40, "id": "forty"}, {"value": 50, "id": "fifty"}]
    [axis] = _axes(
        _settings(points, defenses=["fedavg", "krum"]),
        {
            **{(name, "fedavg"): _done({1: 0.2, 2: 0.4}) for name in ("ten", "main", "forty")},
            ("ten", "krum"): _done({1: 0.8, 2: 0.8}),
            ("main", "krum"): _done({1: 0.5, 2: 0.5}, degenerate="degenerate: equals median"),
            ("forty", "krum"): Summary("not_applicable", ("not applicable: n < 2f + 3 (seed 1, 2)",)),
        },
    )
    [line] = [line for line in axis.lines if line.id == "krum"]
    safety = axis.along(line)
    assert safety[0] is not None
    assert safety[1:] == (None, None, None)
    assert [point.cells["krum"].reason for point in axis.points] == [
        "",
        "degenerate: equals median",
        "not applicable: n < 2f + 3 (seed 1, 2)",
        "not run",
    ]
    assert axis.points[3].cells["fedavg"].reason == "not run"
    assert axis.points[3].twin == ""
    assert axis.seeds == (1, 2)  # a point that was not run at all does not take the seeds of the others


def test_a_defense_that_lacks_a_shared_seed_is_missing() -> None:
    [axis] = _axes(
        _settings(POINTS),
        {
            ("ten", "fedavg"): _done({1: 0.2, 2: 0.4}),
            ("ten", "krum"): _done({1: 0.2}),
            ("main", "fedavg"): _done({1: 0.1, 2: 0.3}),
        },
    )
    assert axis.points[0].cells["krum"].reason == "not run (seed 2)"
    assert axis.points[0].cells["krum"].metrics == {}


def test_points_without_a_common_seed_show_nothing() -> None:
    [axis] = _axes(_settings(POINTS), {("ten", "fedavg"): _done({1: 0.2}), ("main", "fedavg"): _done({2: 0.1})})
    assert axis.seeds == ()
    assert {point.cells["fedavg"].reason for point in axis.points} == {"the points share no seed"}
    assert not axis.started


def test_methods_that_take_each_others_place_form_one_line() -> None:
    points = [
        {"value": "half", "scenario": "main", "defenses": ["fedavg", "repair"]},
        {"value": "aligned", "id": "aligned", "defenses": ["fedavg", "repair_aligned"]},
    ]
    found = {
        ("main", "fedavg"): _done({1: 0.1}),
        ("main", "repair"): _done({1: 0.8}),
        ("clean_main", "repair"): _done({1: 1.0}),
        ("aligned", "repair_aligned"): _done({1: 0.9}),
    }
    [axis] = _axes(_settings(points, unit=""), found)
    assert axis.lines == (Line("fedavg", ("fedavg", "fedavg")), Line("repair", ("repair", "repair_aligned")))
    assert [line.ablation for line in axis.lines] == [False, True]
    assert [one.mean if one else None for one in axis.along(axis.lines[1])] == [0.8, 0.9]
    assert list(axis.points[0].twins) == ["fedavg", "repair"]
    assert axis.points[0].label == "half"
    assert not axis.numeric


def test_methods_that_cannot_be_matched_are_lines_of_their_own() -> None:
    points = [
        {"value": 1, "id": "one", "defenses": ["fedavg", "a", "b"]},
        {"value": 2, "id": "two", "defenses": ["fedavg", "c"]},
    ]
    [axis] = _axes(_settings(points), {})
    assert axis.lines == (
        Line("fedavg", ("fedavg", "fedavg")),
        Line("a", ("a", "")),
        Line("b", ("b", "")),
        Line("c", ("", "c")),
    )
    assert axis.along(axis.lines[1]) == (None, None)


def test_a_suite_without_sets_has_no_axes() -> None:
    assert axes({}, {}, lambda scenario, defense, _: Summary(NOT_RUN), "fedavg") == ()
    assert axes({"sensitivity": None}, {}, lambda scenario, defense, _: Summary(NOT_RUN), "fedavg") == ()


@pytest.mark.parametrize(
    "settings",
    [
        {"sensitivity": ["x"]},
        {"sensitivity": {"defenses": []}},
        _settings([{"value": [1], "id": "one"}]),
        _settings([{"value": 1}]),
        _settings(POINTS, title=3),
        _settings(POINTS, defenses=[1]),
    ],
)
def test_foreign_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(FedSafetyError, match="sensitivity settings"):
        _axes(settings, {})


def test_the_micro_suite_is_read_as_it_is_written() -> None:
    suite = suites.get("micro")
    assert suite.sensitivity is not None
    found = axes(
        suite.model_dump(mode="json", exclude={"scenarios"}),
        {one.id: Scenario(one.id, one.twin, one.attack.id, {}, {}) for one in suite.every_scenario},
        lambda scenario, defense, _: Summary(NOT_RUN, ("not run in this scenario",)),
        "fedavg",
    )
    assert [axis.id for axis in found] == [axis.id for axis in suite.sensitivity.axes]
    for axis, written in zip(found, suite.sensitivity.axes, strict=True):
        assert [point.scenario for point in axis.points] == [point.name for point in written.points]
        for point, declared in zip(axis.points, written.points, strict=True):
            assert tuple(point.cells) == suite.sensitivity.defenses_of(written, declared)
            assert point.twin == suite.scenario(point.scenario).twin
        assert all(isinstance(cell, Cell) and cell.reason for point in axis.points for cell in point.cells.values())


def test_committed_rows() -> None:
    for board in boards(load_rows([RESULTS])):
        section = settings_of(board.info).get("sensitivity") or {"axes": []}
        assert [axis.id for axis in board.sensitivity] == [axis["id"] for axis in section["axes"]]
        for axis in board.sensitivity:
            for cell in (cell for point in axis.points for cell in point.cells.values()):
                assert bool(cell.reason) != bool(cell.metrics)
                if not cell.reason:
                    assert tuple(cell.summary.values["safety"]) == axis.seeds


def test_a_seed_that_fails_outside_the_axis_hides_no_point(tmp_path: Path) -> None:
    """The base scenario has seeds 0 to 2 and fails on 2; the other point has seeds 0 and 1, and so has the axis."""
    point = {"axis": "share", "title": "Share", "unit": "%", "value": 10, "position": 0, "base": "aligned_start"}
    cells = [
        (cell_row(scenario=scenario, twin="clean", attack=attack, seed=seed), {"safety": 0.1 * seed, "utility": 0.9})
        for scenario, attack, seeds in (
            ("aligned_start", "unaligned_data", (0, 1)),
            ("clean", "none", (0, 1, 2)),
            ("ten", "unaligned_data", (0, 1)),
        )
        for seed in seeds
    ]
    cells.append((cell_row(seed=2, status="failed", reason="disk full"), {}))
    tables = exact_rows(cells)
    settings = _settings([{"value": 10, "id": "ten"}, {"value": 30, "scenario": "aligned_start"}], base="aligned_start")
    described = [
        catalog_row("suite", "micro", settings=json.dumps(settings)),
        catalog_row("scenario", "ten", settings=json.dumps({"sensitivity": point})),
    ]
    tables["catalog"] = table_of("catalog", described)
    (board,) = boards(load_rows([write_tables(tmp_path, tables)]))
    assert board.standings()[0].notes == ("aligned_start: failed: disk full (seed 2)",)
    (axis,) = board.sensitivity
    assert axis.seeds == (0, 1)
    assert [point.cells["fedavg"].metrics["safety"].mean for point in axis.points] == [pytest.approx(0.05)] * 2
