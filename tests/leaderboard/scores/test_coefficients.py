from __future__ import annotations

import doctest
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau
from statsmodels.stats import inter_rater

from leaderboard.scores import coefficients
from leaderboard.scores.coefficients import cohen_kappa, kendall_tau, krippendorff_alpha, over_seeds

# Krippendorff 2011, "Computing Krippendorff's alpha-reliability", example C: four observers, twelve units, five values,
# missing data; nominal alpha = 0.743.
FOUR_OBSERVERS = (
    (1, 2, 3, 3, 2, 1, 4, 1, 2, 0, 0, 0),
    (1, 2, 3, 3, 2, 2, 4, 1, 2, 5, 0, 3),
    (0, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, 0),
    (1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, 0),
)
# The same source, example A: two observers, ten units, two values, none missing; alpha = 0.095.
TWO_OBSERVERS = ((1, 2, 1, 1, 1, 1, 1, 1, 2, 1), (2, 2, 2, 1, 1, 2, 1, 1, 1, 1))


def _counts(observers: Sequence[Sequence[int]], values: int) -> coefficients.Floats:
    """Return [units, values] of values from 1; 0 is missing."""
    table = np.array(observers)
    return np.stack([(table == value).sum(axis=0) for value in range(1, values + 1)], axis=1).astype(np.float64)


def test_doctests() -> None:
    assert doctest.testmod(coefficients).failed == 0


def test_alpha_of_the_published_examples() -> None:
    assert krippendorff_alpha(_counts(FOUR_OBSERVERS, 5)) == pytest.approx(0.743, abs=5e-4)
    assert krippendorff_alpha(_counts(TWO_OBSERVERS, 2)) == pytest.approx(0.095, abs=5e-4)


def test_alpha_counts_repeated_units() -> None:
    counts = _counts(FOUR_OBSERVERS, 5)
    times = np.array([3.0, 1, 0, 2, 1, 1, 1, 5, 1, 1, 1, 1])
    assert krippendorff_alpha(counts, times) == pytest.approx(
        krippendorff_alpha(np.repeat(counts, times.astype(int), axis=0))
    )


def test_alpha_ignores_units_with_one_value_and_the_order_of_units() -> None:
    counts = _counts(FOUR_OBSERVERS, 5)
    alone = np.array([[0.0, 0, 0, 0, 1], [0, 0, 0, 0, 0]])
    assert krippendorff_alpha(np.concatenate([alone, counts[::-1]])) == pytest.approx(krippendorff_alpha(counts))


@pytest.mark.parametrize("counts", [[[3.0, 0.0], [2.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]], [[0.0, 0.0]]])
def test_alpha_is_undefined_without_variation(counts: list[list[float]]) -> None:
    assert math.isnan(krippendorff_alpha(np.array(counts)))


def test_alpha_at_its_ends() -> None:
    assert krippendorff_alpha(np.array([[3.0, 0.0], [0.0, 2.0]])) == 1.0
    assert krippendorff_alpha(np.array([[1.0, 1.0], [1.0, 1.0]])) < 0


_TABLE = st.lists(st.integers(0, 30), min_size=4, max_size=4)


@given(_TABLE)
def test_kappa_is_statsmodels(drawn: list[int]) -> None:
    table = np.array(drawn, np.float64).reshape(2, 2)
    found = float(cohen_kappa(table))
    margins = table.sum(axis=0), table.sum(axis=1)
    if table.sum() == 0 or (margins[0] * margins[1]).sum() == table.sum() ** 2:
        assert math.isnan(found)
    else:
        assert found == pytest.approx(inter_rater.cohens_kappa(table, return_results=False))


def test_kappa_of_many_tables_at_once() -> None:
    tables = np.random.default_rng(1).integers(0, 20, (4, 3, 2, 2)).astype(np.float64)
    found = cohen_kappa(tables)
    assert found.shape == (4, 3)
    assert found[2, 1] == cohen_kappa(tables[2, 1])


def test_kappa_at_its_ends() -> None:
    assert cohen_kappa(np.array([[4.0, 0.0], [0.0, 3.0]])) == 1.0
    assert cohen_kappa(np.array([[4.0, 0.0], [3.0, 0.0]])) == 0.0  # the second rater says one thing only
    assert math.isnan(cohen_kappa(np.array([[4.0, 0.0], [0.0, 0.0]])))


_SCORES = st.integers(2, 8).flatmap(
    lambda n: st.tuples(*(st.lists(st.integers(0, 4), min_size=n, max_size=n) for _ in range(2)))
)


@given(_SCORES)
def test_tau_is_scipys(drawn: tuple[list[int], list[int]]) -> None:
    one, other = (np.array(scores, np.float64) for scores in drawn)
    found = float(kendall_tau(one, other))
    assert found == pytest.approx(kendalltau(one, other).statistic, nan_ok=True)
    assert float(kendall_tau(np.exp(one), -other)) == pytest.approx(-found, nan_ok=True)


def test_tau_without_an_order_is_undefined() -> None:
    assert math.isnan(kendall_tau(np.array([1.0, 1.0]), np.array([1.0, 2.0])))
    assert math.isnan(kendall_tau(np.array([1.0]), np.array([2.0])))
    assert math.isnan(kendall_tau(np.array([1.0, math.nan]), np.array([1.0, 2.0])))


def test_an_interval_ends_at_full_agreement() -> None:
    found = over_seeds({1: 1.0, 2: 0.9, 3: 1.0})
    assert found.high == 1.0
    assert found.low < 0.9
    assert over_seeds({1: 0.7}).method == ""
    assert math.isnan(over_seeds({1: 0.7}).low)
