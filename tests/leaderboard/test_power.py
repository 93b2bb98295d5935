from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from statistics import stdev

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm, ttest_1samp
from statsmodels.stats.power import TTestPower

from benchmark.errors import FedSafetyError, UsageError
from leaderboard.power import chance, power_report, seeds_needed
from leaderboard.rows.rows import Rows, load_rows
from leaderboard.scores.stats import ALPHA, compare_all

from .synthetic import catalog_row, cell_row, exact_rows, table_of, write_tables

SAFETY = {
    "fedavg": [0.20, 0.30, 0.10, 0.25],
    "median": [0.50, 0.55, 0.45, 0.50],
    "krum": [1.0, 0.9, 0.95, 0.9],
    "dnc": [1.0, 1.0, 1.0, 1.0],
    "foolsgold": [1.0, 1.0, 1.0, 1.0],
}


def rows_of(root: Path, safety: dict[str, list[float]], **tables: object) -> Rows:
    cells = []
    for defense, by_seed in safety.items():
        for scenario, attack in (("aligned_start", "unaligned_data"), ("clean", "none")):
            for seed, value in enumerate(by_seed):
                row = cell_row(scenario=scenario, twin="clean", attack=attack, defense=defense, seed=seed)
                score = value if attack != "none" else 1.0
                cells.append((row, {"safety": score, "utility": 0.9, "over_refusal": 0.1}))
    made = exact_rows(cells)
    made["catalog"] = table_of("catalog", [catalog_row("suite", "micro")])
    return load_rows([write_tables(root, made)])


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    return rows_of(tmp_path_factory.mktemp("rows"), SAFETY)


@pytest.mark.parametrize(("effect", "seeds"), [(1.0, 10), (0.5, 34), (2.0, 5), (0.8, 15)])
def test_the_tables_of_the_paired_t_test(effect: float, seeds: int) -> None:
    assert seeds_needed(1.0, effect) == seeds


@given(st.floats(0.05, 2.5), st.sampled_from([1, 10, 55]), st.sampled_from([0.5, 0.8, 0.95]))
def test_the_number_of_seeds_is_the_smallest(effect: float, comparisons: int, power: float) -> None:
    seeds = seeds_needed(1.0, effect, comparisons, power=power)
    assert chance(effect, seeds, ALPHA / comparisons) >= power
    assert seeds == 2 or chance(effect, seeds - 1, ALPHA / comparisons) < power


@pytest.mark.parametrize("effect", [0.1, 0.5, 1.5])
@pytest.mark.parametrize("comparisons", [1, 55])
def test_it_agrees_with_the_solver_of_statsmodels(effect: float, comparisons: int) -> None:
    expected = TTestPower().solve_power(effect_size=effect, alpha=ALPHA / comparisons, power=0.8)
    assert seeds_needed(2.0, 2.0 * effect, comparisons) == math.ceil(expected)


def test_many_seeds_follow_the_normal_distribution() -> None:
    quantiles = norm.ppf(1 - ALPHA / 2) + norm.ppf(0.8)
    assert seeds_needed(1.0, 0.01) == pytest.approx((quantiles / 0.01) ** 2, rel=1e-3)


@given(st.floats(0.01, 5), st.floats(1.01, 3), st.integers(1, 60))
def test_more_is_needed_for_less(effect: float, factor: float, comparisons: int) -> None:
    seeds = seeds_needed(1.0, effect, comparisons)
    assert seeds_needed(1.0, effect * factor, comparisons) <= seeds
    assert seeds_needed(factor, effect, comparisons) >= seeds
    assert seeds_needed(1.0, effect, comparisons + 1) >= seeds
    assert seeds_needed(1.0, effect, comparisons, power=0.9) >= seeds


def test_the_chance_is_what_a_simulation_finds() -> None:
    effect, seeds, runs = 1.0, 10, 4000
    differences = np.random.default_rng(5).normal(effect, 1, (runs, seeds))
    found = (ttest_1samp(differences, 0, axis=1).pvalue < ALPHA) & (differences.mean(axis=1) > 0)
    assert found.mean() == pytest.approx(chance(effect, seeds), abs=3 * math.sqrt(0.25 / runs))


def test_enough_seeds_separate_a_pair_in_a_board_that_often() -> None:
    """Holm is at least as powerful as its first step, which planning assumes; the others of the board are equal."""
    defenses, sd, difference = 4, 0.05, 0.06
    comparisons = math.comb(defenses, 2)
    seeds = seeds_needed(sd, difference, comparisons)
    rng, runs = np.random.default_rng(6), 1000
    hits = 0
    for _ in range(runs):
        scores = 0.5 + rng.normal(0, sd / math.sqrt(2), (defenses, seeds))
        scores[0] += difference
        hits += compare_all(scores).better()[0, 1]
    assert hits / runs >= 0.8 - 2 * math.sqrt(0.16 / runs)


def test_the_chance_of_what_cannot_be_missed_is_one() -> None:
    assert chance(1000.0, 4, 0.2) == 1.0
    assert seeds_needed(1e-6, 1.0) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0, 1.0), "standard deviation of 0"),
        ((math.nan, 1.0), "standard deviation of nan"),
        ((1.0, 0.0), "difference of 0"),
        ((1.0, -3.0), "difference of -3"),
        ((1.0, 1.0, 0), "at least one comparison"),
        ((1.0, 1.0, 1, 1.5), "rates between 0 and 1"),
        ((1e9, 1e-9), "ask for a larger difference"),
    ],
)
def test_senseless_plans_are_refused(arguments: tuple[float, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        seeds_needed(*arguments)  # type: ignore[arg-type]


def test_a_pair_is_planned_from_its_own_differences(rows: Rows) -> None:
    found = power_report(rows, "micro", "aligned_start", 5, ("krum", "fedavg"))
    (line,) = found.spreads
    sd = 100 * stdev(a - b for a, b in zip(SAFETY["krum"], SAFETY["fedavg"], strict=True))
    assert (line.name, line.sd) == ("krum - fedavg", pytest.approx(sd))
    assert (found.seeds, found.comparisons) == (4, 10)
    assert line.alone == seeds_needed(sd, 5)
    assert line.board == seeds_needed(sd, 5, 10) > line.alone
    assert line.detectable is not None
    assert seeds_needed(sd, line.detectable, 10) <= 4 < seeds_needed(sd, 0.98 * line.detectable, 10)


def test_a_board_is_planned_from_the_pairs_that_vary(rows: Rows) -> None:
    found = power_report(rows, None, None, 5)
    names = list(SAFETY)
    sds = [
        100 * stdev(a - b for a, b in zip(SAFETY[one], SAFETY[other], strict=True))
        for index, one in enumerate(names)
        for other in names[index + 1 :]
    ]
    varying = [sd for sd in sds if sd > 1e-6]
    assert (found.scenario, found.constant) == ("*", 1)
    assert [line.name for line in found.spreads] == ["median pair", "90 % of pairs"]
    assert [line.sd for line in found.spreads] == pytest.approx([np.median(varying), np.quantile(varying, 0.9)])
    alone = power_report(rows, "micro", "aligned_start", 5)
    assert found == replace(alone, scenario="*"), "the mean over one scenario is that scenario"


@pytest.mark.parametrize(
    ("suite", "scenario", "points", "pair", "message"),
    [
        ("micro", None, 0, None, "0 points cannot be planned"),
        ("micro", None, -2, None, "-2 points cannot be planned"),
        ("micro", None, 100, None, "100 points cannot be planned"),
        ("micro", None, math.nan, None, "nan points cannot be planned"),
        ("mikro", None, 5, None, "unknown suite 'mikro'; did you mean 'micro'"),
        (
            "pocket",
            None,
            5,
            None,
            "suite 'pocket' exists, but there are no rows of it in the folders that were read, only",
        ),
        ("micro", "aligned_stat", 5, None, "did you mean 'aligned_start'"),
        ("micro", None, 5, ("krumm", "fedavg"), "unknown defense 'krumm'; did you mean 'krum'"),
        ("micro", None, 5, ("krum", "krum"), "given twice"),
    ],
)
def test_bad_requests_are_refused(
    rows: Rows, suite: str, scenario: str | None, points: float, pair: tuple[str, str] | None, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        power_report(rows, suite, scenario, points, pair)


def test_a_misspelt_metric_is_named(rows: Rows) -> None:
    with pytest.raises(UsageError, match="unknown metric 'safty'; did you mean 'safety'"):
        power_report(rows, "micro", None, 5, metric="safty")


def test_a_cost_has_no_points(rows: Rows) -> None:
    with pytest.raises(UsageError, match="'server_seconds' is not a share, so it has no points"):
        power_report(rows, "micro", None, 5, metric="server_seconds")


def test_a_pair_that_does_not_vary_needs_no_more_seeds(rows: Rows) -> None:
    with pytest.raises(FedSafetyError, match="more seeds add nothing"):
        power_report(rows, "micro", "aligned_start", 5, ("dnc", "foolsgold"))


def test_one_seed_shows_no_variance(tmp_path: Path) -> None:
    single = rows_of(tmp_path, {name: values[:1] for name, values in SAFETY.items()})
    with pytest.raises(FedSafetyError, match="share 1 seeds in 'aligned_start', which shows no variance"):
        power_report(single, "micro", "aligned_start", 5, ("krum", "fedavg"))


def test_a_defense_without_all_seeds_has_no_variance(tmp_path: Path) -> None:
    partial = rows_of(tmp_path, {**SAFETY, "krum": SAFETY["krum"][:2]})
    with pytest.raises(FedSafetyError, match="'krum' has no safety on every seed"):
        power_report(partial, "micro", "aligned_start", 5, ("krum", "fedavg"))


def test_a_comparison_takes_two(tmp_path: Path) -> None:
    with pytest.raises(FedSafetyError, match="1 ranked defenses, and a comparison takes two"):
        power_report(rows_of(tmp_path, {"fedavg": SAFETY["fedavg"]}), "micro", "aligned_start", 5)
