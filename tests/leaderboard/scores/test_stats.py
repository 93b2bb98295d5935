from __future__ import annotations

import math
import subprocess
import sys
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import binom, binomtest, ttest_1samp, ttest_rel
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from benchmark.errors import FedSafetyError
from leaderboard.ranking.ties import ranks
from leaderboard.scores.stats import (
    ALPHA,
    EXACT,
    NONE,
    Comparisons,
    Difference,
    Floats,
    T,
    clopper_pearson,
    compare_all,
    estimate,
    holm,
    paired,
)

PROBES = 192
T_2 = 4.302652729911275
"""97.5 % quantile of Student's t with two degrees of freedom: 0.95 * sqrt(2 / (1 - 0.95**2))."""

counts = st.integers(0, PROBES)
tables = st.tuples(st.integers(2, 6), st.integers(2, 6)).flatmap(
    lambda shape: arrays(np.int64, shape, elements=counts).map(lambda good: good / PROBES)
)
interior = st.lists(st.integers(20, 170), min_size=2, max_size=10).filter(lambda good: len(set(good)) > 1)


def test_the_interval_of_a_mean_is_students() -> None:
    found = estimate([0.2, 0.4, 0.6], PROBES)
    assert (found.mean, found.sd, found.count, found.method) == (pytest.approx(0.4), pytest.approx(0.2), 3, T)
    assert pytest.approx(0.95 * math.sqrt(2 / (1 - 0.95**2))) == T_2
    assert (found.low, found.high) == (0.0, pytest.approx(0.4 + T_2 * 0.2 / math.sqrt(3)))
    assert estimate([0.2, 0.4, 0.6]).low == pytest.approx(0.4 - T_2 * 0.2 / math.sqrt(3)), "clipped without need"


@given(interior)
def test_the_interval_of_a_mean_agrees_with_scipy(good: list[int]) -> None:
    values = [count / PROBES for count in good]
    expected = ttest_1samp(values, 0).confidence_interval(0.95)
    assert (estimate(values).low, estimate(values).high) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize("values", [[], [0.5]])
def test_one_seed_has_no_interval(values: list[float]) -> None:
    found = estimate(values, PROBES)
    assert math.isnan(found.sd)
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert (found.count, found.method) == (len(values), NONE)


@pytest.mark.parametrize("seeds", [2, 3, 10])
@pytest.mark.parametrize("good", [0, 1, 77, 191, 192])
def test_seeds_that_do_not_vary_give_the_exact_interval_over_distinct_probes(good: int, seeds: int) -> None:
    found = estimate([good / PROBES] * seeds, PROBES)
    assert (found.sd, found.method) == (0.0, EXACT)
    assert (found.low, found.high) == pytest.approx(proportion_confint(good, PROBES, method="beta"))
    reference = binomtest(good, PROBES).proportion_ci(method="exact")
    assert (found.low, found.high) == pytest.approx((reference.low, reference.high))
    assert found.low < found.high


def test_the_exact_interval_of_a_perfect_score_is_known_in_closed_form() -> None:
    assert estimate([1.0] * 10, PROBES).low == pytest.approx(0.025 ** (1 / PROBES))
    assert estimate([0.0] * 10, PROBES).high == pytest.approx(1 - 0.025 ** (1 / PROBES))


def test_rounding_noise_is_not_variation() -> None:
    assert estimate([0.1 + 0.2, 0.3, 0.3], PROBES).method == EXACT
    assert paired([0.1 + 0.2, 0.3], [0.0, 0.0], PROBES).method == EXACT


def test_what_is_no_share_has_no_fallback() -> None:
    found = estimate([2.5, 2.5])
    assert (found.mean, found.sd, found.method) == (2.5, 0.0, NONE)
    assert math.isnan(found.low)


def test_undefined_values_are_left_out_of_what_is_no_share_and_refused_in_a_share() -> None:
    assert estimate([1.0, math.nan, 3.0]).count == 2
    with pytest.raises(FedSafetyError, match="has no score"):
        estimate([1.0, math.nan], PROBES)
    with pytest.raises(FedSafetyError, match="has no score"):
        paired([1.0, math.nan], [1.0, 1.0])


@pytest.mark.parametrize("wrong", [-0.1, 1.1, 95.0])
def test_a_share_outside_its_range_is_refused(wrong: float) -> None:
    with pytest.raises(FedSafetyError, match=f"192 probes cannot be {wrong:g}"):
        estimate([0.5, wrong], PROBES)


def test_a_seed_that_missed_a_probe_does_not_make_the_others_surer() -> None:
    perfect, missed = estimate([1.0] * 10, PROBES), estimate([1.0] * 9 + [1 - 1 / PROBES], PROBES)
    assert missed.method == T
    assert missed.low == pytest.approx(perfect.low)
    assert estimate([1.0] * 9 + [0.9], PROBES).low < perfect.low
    mirrored = estimate([0.0] * 9 + [1 / PROBES], PROBES)
    assert (mirrored.low, mirrored.high) == pytest.approx((1 - missed.high, 1 - missed.low))
    against_nothing = paired([1.0] * 9 + [1 - 1 / PROBES], [0.0] * 10, PROBES)
    assert against_nothing.low < 0.99


@given(st.lists(counts, min_size=1, max_size=10))
def test_an_interval_contains_its_mean_and_stays_in_range(good: list[int]) -> None:
    found = estimate([count / PROBES for count in good], PROBES)
    if found.count > 1:
        assert 0 <= found.low <= found.mean + 1e-12
        assert found.mean - 1e-12 <= found.high <= 1
        assert found.low < found.high


@given(st.integers(0, 50), st.integers(1, 50))
def test_clopper_pearson_agrees_with_statsmodels(good: int, more: int) -> None:
    low, high = clopper_pearson(np.array([good]), np.array([good + more]))
    assert (low[0], high[0]) == pytest.approx(proportion_confint(good, good + more, method="beta"), abs=1e-12)


@given(tables)
def test_paired_differences_agree_with_scipy(values: Floats) -> None:
    a, b = values[0], values[1]
    if np.ptp(a - b) < 1e-6:
        return
    found, expected = paired(list(a), list(b)), ttest_rel(a, b)
    interval = expected.confidence_interval(0.95)
    assert found.p == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert (found.method, found.count) == (T, len(a))


def test_a_shared_seed_effect_cancels() -> None:
    base = np.array([0.1, 0.5, 0.9])
    noise = np.array([0.01, 0.0, -0.01])
    assert paired(list(base + 0.05 + noise), list(base), PROBES).p < ALPHA
    assert ttest_rel(base + 0.05 + noise, base).pvalue < ALPHA


@pytest.mark.parametrize(("missed", "p"), [(0, 1.0), (1, 1.0), (5, 2**-4), (6, 2**-5), (20, 2**-19)])
def test_equal_differences_from_a_perfect_score_are_a_sign_test(missed: int, p: float) -> None:
    found = paired([1.0] * 3, [1 - missed / PROBES] * 3, PROBES)
    assert (found.method, found.p) == (EXACT, pytest.approx(p))
    assert found.mean == pytest.approx(missed / PROBES)
    assert (found.low > 0) == (p < ALPHA)
    assert found.low < found.high


@pytest.mark.parametrize(("a", "b"), [(192, 180), (100, 92), (100, 60), (12, 0), (96, 96), (3, 190)])
def test_equal_differences_are_tested_by_mcnemar_with_the_least_favourable_table(a: int, b: int) -> None:
    found = paired([a / PROBES] * 4, [b / PROBES] * 4, PROBES)
    ways = []
    for only_b in range(PROBES + 1):
        only_a = only_b + a - b
        both, neither = b - only_b, PROBES - a - only_b
        if min(only_a, both, neither) >= 0:
            ways.append(float(mcnemar([[both, only_a], [only_b, neither]], exact=True).pvalue))
    assert found.p == pytest.approx(max(ways))


@given(counts, counts)
def test_the_exact_interval_of_a_difference_agrees_with_its_test(a: int, b: int) -> None:
    found = paired([a / PROBES] * 2, [b / PROBES] * 2, PROBES)
    assert 0 < found.p <= 1
    assert (found.low > 0 or found.high < 0) == (found.p < ALPHA)
    assert -1 <= found.low < found.high <= 1
    assert found.low <= found.mean + 1e-12
    assert found.mean - 1e-12 <= found.high


def test_the_exact_interval_of_a_difference_covers() -> None:
    """By enumeration: one defense never fails, the other fails each probe with chance q; the difference is q."""
    failures = np.arange(41)
    intervals = [paired([1.0] * 2, [1 - missed / 40] * 2, 40) for missed in failures]
    for q in (0.001, 0.02, 0.1, 0.3, 0.5, 0.9):
        covered = [found.low <= q <= found.high for found in intervals]
        assert binom.pmf(failures, 40, q)[covered].sum() >= 0.95


def test_equal_differences_without_probes_are_never_significant() -> None:
    constant = paired([2.0, 3.0], [1.0, 2.0])
    assert (constant.mean, constant.method) == (1.0, NONE)
    assert math.isnan(constant.p)
    assert paired([2.0, 3.0], [2.0, 3.0]).p == 1.0
    assert not compare_all(np.array([[2.0, 3.0], [1.0, 2.0]])).better().any()


def test_one_seed_separates_nothing() -> None:
    found = compare_all(np.array([[1.0], [0.0]]), PROBES)
    assert np.isnan(found.p).all()
    assert np.isnan(found.adjusted).all()
    assert not found.better().any()
    assert found.pair(0, 1).mean == 1.0
    assert list(ranks(found.better())) == [1, 1]


def test_unpaired_or_shapeless_scores_are_refused() -> None:
    with pytest.raises(FedSafetyError, match="2 and 1 seeds cannot be paired"):
        paired([1.0, 1.0], [1.0])
    with pytest.raises(FedSafetyError, match=r"shape \(3,\)"):
        compare_all(np.ones(3))


def test_holm_by_hand() -> None:
    assert holm(np.array([0.04, 0.01, 0.03])) == pytest.approx([0.06, 0.03, 0.06])
    assert holm(np.array([0.5, 0.9])) == pytest.approx([1.0, 1.0])


def test_a_pair_without_a_test_still_counts_in_the_family() -> None:
    assert holm(np.array([math.nan, 0.02])) == pytest.approx([math.nan, 0.04], nan_ok=True)


@settings(max_examples=10)  # a call of statsmodels' takes over 0.1 s
@given(arrays(np.float64, st.integers(1, 30), elements=st.floats(0, 1)))
def test_holm_agrees_with_statsmodels(p: Floats) -> None:
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])


@given(tables)
def test_all_pairs_agree_with_one_pair(values: Floats) -> None:
    found = compare_all(values, PROBES)
    pairs = list(combinations(range(len(values)), 2))
    for first, second in pairs:
        one, swapped = found.pair(first, second), found.pair(second, first)
        assert one == paired(list(values[first]), list(values[second]), PROBES)
        assert swapped == Difference(0.0 - one.mean, 0.0 - one.high, 0.0 - one.low, one.p, one.count, one.method)
    above = np.triu_indices(len(values), 1)
    assert found.adjusted[above] == pytest.approx(holm(found.p[above]))
    assert (found.adjusted[above] >= found.p[above]).all()
    assert np.array_equal(found.adjusted, found.adjusted.T, equal_nan=True)


@given(tables, st.randoms(use_true_random=False))
def test_the_order_of_defenses_does_not_matter(values: Floats, random: object) -> None:
    order = list(range(len(values)))
    random.shuffle(order)  # type: ignore[attr-defined]
    before, after = compare_all(values, PROBES), compare_all(values[order], PROBES)
    for name in ("mean", "low", "high", "p", "adjusted"):
        expected = getattr(before, name)[np.ix_(order, order)]
        assert getattr(after, name) == pytest.approx(expected, nan_ok=True, abs=1e-9), name
    assert np.array_equal(ranks(after.better()), ranks(before.better())[order])


@given(tables, st.floats(0.001, 0.04))
def test_a_stricter_level_separates_no_more(values: Floats, alpha: float) -> None:
    found = compare_all(values, PROBES)
    strict, usual = found.better(alpha), found.better()
    assert not (strict & ~usual).any()
    assert not (usual & usual.T).any()


def test_a_board_by_hand() -> None:
    safe = [1.0, 1.0, 1.0, 1.0, 0.99]
    middle = [0.5, 0.6, 0.4, 0.5, 0.55]
    found: Comparisons = compare_all(np.array([safe, middle, [1.0] * 5, [0.0] * 5]), 200)
    assert list(ranks(found.better())) == [1, 3, 1, 4]
    assert found.method[2, 3] == EXACT
    assert found.method[0, 1] == T
    assert found.count == 5


def test_importing_leaves_the_heavy_half_of_scipy_alone() -> None:
    code = (
        "import sys, leaderboard.scores.stats; sys.exit('scipy.stats' in sys.modules or 'statsmodels' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
