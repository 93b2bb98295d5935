"""Evidence on the paper's claims from hand-made rows: the compared sides, their seeds and the intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from leaderboard.ranking.board import Board
from leaderboard.ranking.boards import boards
from leaderboard.ranking.claims import Comparison, evidence
from leaderboard.rows.rows import load_rows

from ..by_hand import Cell
from ..synthetic import catalog_row, cell_row, exact_rows, table_of, write_submission, write_tables

STAGES = {
    "fedavg": "aggregate",
    "median": "aggregate",
    "krum": "aggregate",
    "krum_one_neighbour": "aggregate",
    "keep_initial": "aggregate",
    "posthoc_self": "finalize",
    "posthoc_public": "finalize",
    "refuse_all": "serve",
    "mine": "aggregate",
}
ATTACKED, CLEAN = "aligned_start", "clean"
TAKEN = {"safety": [0.2, 0.3, 0.2, 0.3]}
INTACT = {"safety": [1.0, 0.9, 1.0, 0.9]}
"""Differences -0.8 and -0.6 in turn: mean -0.7, standard deviation 0.11547, half-width 3.18245 * 0.11547 / 2."""
HALF = 0.18374


def cells(
    defense: str, scenario: str, scores: Mapping[str, Sequence[float]], seeds: Sequence[int] = (), **changes: object
) -> list[Cell]:
    """Return the cells of one defense in one scenario, with each score by seed; utility 0.9 and over-refusal 0.1."""
    attack = "none" if scenario == CLEAN else "unaligned_data"
    count = len(scores["safety"])
    return [
        (
            cell_row(scenario=scenario, twin=CLEAN, attack=attack, defense=defense, seed=seed, **changes),
            {"utility": 0.9, "over_refusal": 0.1} | {name: values[place] for name, values in scores.items()},
        )
        for place, seed in enumerate(seeds or range(count))
    ]


def board_of(root: Path, *rows: list[Cell]) -> Board:
    """Return the board of rows, with a catalog that has the stages of each defense."""
    every = [cell for part in rows for cell in part]
    submitted = [cell for cell in every if cell[0]["origin"] == "submitted"]
    tables = exact_rows([cell for cell in every if cell not in submitted])
    catalog = [
        catalog_row("defense", name, stages=stages, position=i) for i, (name, stages) in enumerate(STAGES.items())
    ]
    tables["catalog"] = table_of("catalog", catalog)
    write_tables(root / "micro", tables)
    if submitted:
        write_submission(root, "mine", exact_rows(submitted), "sampled")
    (board,) = boards(load_rows([root]))
    return board


BASELINE = [*cells("fedavg", ATTACKED, TAKEN), *cells("fedavg", CLEAN, INTACT)]


def ids(comparison: Comparison) -> list[str]:
    return [rival.entry.id for rival in comparison.rivals]


def test_the_attack_is_fedavg_against_its_twin_with_the_interval_by_hand(tmp_path: Path) -> None:
    (effect,) = evidence(board_of(tmp_path, BASELINE)).attack
    safety = effect.changes["safety"]
    assert (effect.scenario.id, effect.reason) == (ATTACKED, "")
    assert (safety.before, safety.after) == (pytest.approx(0.95), pytest.approx(0.25))
    ends = safety.difference.low, safety.difference.high
    assert ends == (pytest.approx(-0.7 - HALF, abs=1e-5), pytest.approx(-0.7 + HALF, abs=1e-5))
    assert (safety.direction, safety.difference.count) == (-1, 4)
    assert effect.changes["utility"].direction == 0
    assert set(effect.changes) == {"safety", "utility"}  # the suite measures no likelihoods


def test_a_twin_of_fewer_seeds_and_of_fedavg_alone_is_compared_on_its_seeds(tmp_path: Path) -> None:
    twin = cells("fedavg", CLEAN, {"safety": [0.9, 0.8]}, seeds=[1, 3])
    repaired = cells("posthoc_self", ATTACKED, {"safety": [0.9] * 4, "over_refusal": [0.3, 0.4, 0.5, 0.6]})
    found = evidence(board_of(tmp_path, cells("fedavg", ATTACKED, TAKEN), twin, repaired))
    safety = found.attack[0].changes["safety"]
    assert (safety.before, safety.after, safety.difference.count) == (pytest.approx(0.85), pytest.approx(0.3), 2)
    (rival,) = found.repairs[0].rivals
    assert (rival.safety.difference.count, rival.utility and rival.utility.difference.count) == (4, 4)
    assert rival.over_refusal is not None
    assert (rival.over_refusal.difference.count, rival.over_refusal.after) == (2, pytest.approx(0.5))


def test_one_seed_has_a_difference_and_no_interval(tmp_path: Path) -> None:
    one = [
        *cells("fedavg", ATTACKED, {"safety": [0.2]}),
        *cells("fedavg", CLEAN, {"safety": [1.0]}),
        *cells("krum", ATTACKED, {"safety": [0.9]}),
    ]
    found = evidence(board_of(tmp_path, one))
    safety = found.attack[0].changes["safety"]
    assert safety.difference.mean == pytest.approx(-0.8)
    assert (safety.has_interval, safety.direction) == (False, 0)
    assert math.isnan(found.rules[0].rivals[0].safety.difference.p)
    assert (found.rules[0].tested, found.rules[0].safer) == (False, ())


def test_the_catalog_decides_what_a_rule_and_what_a_repair_is(tmp_path: Path) -> None:
    high = {"safety": [0.8, 0.9, 0.8, 0.9]}
    found = evidence(
        board_of(
            tmp_path,
            BASELINE,
            cells("median", ATTACKED, {"safety": [0.2, 0.3, 0.3, 0.2]}),
            cells("krum", ATTACKED, high),
            cells("posthoc_self", ATTACKED, high),
            cells("krum+posthoc_self", ATTACKED, high),
            cells("keep_initial", ATTACKED, high, ranked=False),
            cells("refuse_all", ATTACKED, high, ranked=False),
            cells("krum_one_neighbour", ATTACKED, high, flags=["variant: krum"]),
            cells("mine", ATTACKED, high, origin="submitted"),
        )
    )
    assert ids(found.rules[0]) == ["krum", "median"]
    assert ids(found.repairs[0]) == ["posthoc_self"]
    assert [rival.entry.id for rival in found.rules[0].safer] == ["krum"]
    average = found.rules[0].average
    assert average is not None
    assert (average.before, average.after) == (pytest.approx(0.25), pytest.approx((0.85 + 0.25) / 2))


def test_holm_corrects_over_the_rules_of_the_scenario(tmp_path: Path) -> None:
    # Differences 0.1, 0.3, 0.1, 0.3: t = 0.2 / (0.11547 / 2) = 3.46 at 3 degrees of freedom, p = 0.0405.
    better = {"safety": [0.3, 0.6, 0.3, 0.6]}
    alone = evidence(board_of(tmp_path / "alone", BASELINE, cells("krum", ATTACKED, better))).rules[0]
    assert alone.rivals[0].safety.difference.p == pytest.approx(0.0405, abs=1e-4)
    assert [rival.entry.id for rival in alone.safer] == ["krum"]
    same = {"safety": [0.2, 0.3, 0.3, 0.2]}
    both = evidence(
        board_of(tmp_path / "both", BASELINE, cells("krum", ATTACKED, better), cells("median", ATTACKED, same))
    ).rules[0]
    assert (ids(both), both.safer, both.tested) == (["krum", "median"], (), True)
    lower = {"safety": [0.0, 0.1, 0.05, 0.1]}
    worse = evidence(board_of(tmp_path / "worse", BASELINE, cells("median", ATTACKED, lower))).rules[0]
    assert ([rival.entry.id for rival in worse.less_safe], worse.safer) == (["median"], ())


def test_a_rule_that_equals_another_or_is_not_complete_is_not_counted(tmp_path: Path) -> None:
    high = {"safety": [0.8, 0.9, 0.8, 0.9]}
    found = evidence(
        board_of(
            tmp_path,
            BASELINE,
            cells("krum", ATTACKED, high, flags=["degenerate: median"]),
            cells("median", ATTACKED, {"safety": [0.9, 0.9]}),
        )
    )
    assert found.rules[0].rivals == ()
    assert found.rules[0].reason == "no aggregation rule is complete in this scenario"
    assert found.repairs[0].reason == "no post-hoc defense is complete in this scenario"


def test_without_fedavg_the_reason_is_named(tmp_path: Path) -> None:
    krum = cells("krum", ATTACKED, INTACT)
    found = evidence(board_of(tmp_path / "none", krum))
    assert found.attack[0].reason == found.rules[0].reason == "FedAvg was not run under the attack"
    found = evidence(board_of(tmp_path / "twin", krum, cells("fedavg", ATTACKED, TAKEN)))
    assert found.attack[0].reason == "FedAvg was not run without the attack"
    assert ids(found.rules[0]) == ["krum"]
    part = cells("fedavg", ATTACKED, {"safety": [0.2]})
    assert (
        evidence(board_of(tmp_path / "part", krum, part)).rules[0].reason == "FedAvg is not complete under the attack"
    )
