"""Coefficients of agreement and rank correlation, for many tables at once.

scipy and statsmodels have two of these coefficients, for one table a call, and importing them takes as long as
building the rest of the page. Tests compare our values with theirs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from leaderboard.scores.stats import Estimate, estimate

Floats = npt.NDArray[np.float64]


def cohen_kappa(tables: Floats) -> Floats:
    """Return Cohen's κ = (p_o - p_e) / (1 - p_e) of two raters for each table.

    1 is full agreement, 0 the agreement that these margins give by chance. κ is nan for an empty table, and where both
    raters always give the same verdict, because then chance alone agrees fully.

    Args:
        tables: Counts [..., categories by the first, categories by the second].

    Source: Cohen 1960, Educational and Psychological Measurement 20.

    >>> cohen_kappa(np.array([[20.0, 5.0], [10.0, 15.0]])).round(3)
    np.float64(0.4)
    """
    total = tables.sum(axis=(-2, -1))
    agreed = np.trace(tables, axis1=-2, axis2=-1) * total
    chance = (tables.sum(axis=-1) * tables.sum(axis=-2)).sum(axis=-1)
    return _ratio(agreed - chance, total * total - chance)


def krippendorff_alpha(counts: Floats, times: Floats | None = None) -> float:
    """Return Krippendorff's alpha for nominal data = 1 - observed / expected disagreement.

    1 is full agreement, 0 the agreement of chance. Any number of raters may take part, and values may be missing. Units
    with fewer than two values do not count, because they hold no pair to compare. Alpha is nan where the counted
    values are all the same, or there is none.

    Args:
        counts: Number of raters that gave each value [units, values].
        times: Number of occurrences of each unit [units]; 1 by default.

    Source: Krippendorff 2011, Computing Krippendorff's alpha-reliability.

    >>> krippendorff_alpha(np.array([[2.0, 0.0], [0.0, 2.0], [1.0, 1.0], [1.0, 0.0]]))
    0.4444444444444444
    """
    raters = counts.sum(axis=1)
    times = (np.ones(len(counts)) if times is None else times) * (raters >= 2)
    unlike = (raters**2 - (counts**2).sum(axis=1)) / np.maximum(raters - 1, 1)
    totals = times @ counts
    count = totals.sum()
    expected = count**2 - (totals**2).sum()
    return float(1 - (count - 1) * (times @ unlike) / expected) if expected > 0 else math.nan


def kendall_tau(one: Floats, other: Floats) -> Floats:
    """Return Kendall's τ-b between the orderings of the same items by two scores.

    1 is the same order, -1 the reverse. A pair of items that a score ties counts for neither. τ is nan where a score
    ties all items, for fewer than two items, and where a value is nan.

    Args:
        one: Scores [..., items].
        other: Scores of the same shape.

    Source: Kendall 1945, Biometrika 33.

    >>> kendall_tau(np.array([1.0, 2.0, 3.0, 3.0]), np.array([1.0, 3.0, 2.0, 4.0])).round(4)
    np.float64(0.5477)
    """
    signs = [np.sign(scores[..., :, None] - scores[..., None, :]) for scores in (one, other)]
    product, *squares = ((a * b).sum(axis=(-2, -1)) for a, b in (signs, signs[:1] * 2, signs[1:] * 2))
    # Clip, because the square root rounds: equal orders could give slightly more than 1.
    return np.clip(_ratio(product, np.sqrt(squares[0] * squares[1])), -1.0, 1.0)


def over_seeds(by_seed: Mapping[int, float]) -> Estimate:
    """Return the estimate of a coefficient over seeds, with its interval cut to -1..1."""
    result = estimate(by_seed.values())
    return replace(result, low=max(result.low, -1.0), high=min(result.high, 1.0)) if result.method else result


def _ratio(above: Floats, below: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(below > 0, above / below, math.nan)[()]
