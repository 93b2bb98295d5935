"""Coefficients of agreement and rank correlation, for many tables at once.

scipy and statsmodels have two of them, one table a call and at the price of an import that takes as long as the rest
of the page; tests compare these with theirs.
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

    1 is full agreement, 0 what two raters with these margins reach by chance; undefined (nan) where chance alone
    agrees fully, because both raters always give the same one verdict, and for an empty table.

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

    1 is full agreement, 0 what chance gives; any number of raters, missing values allowed. Units with fewer than two
    values are left out, since nothing in them can be compared. Undefined (nan) where all values that are left are the
    same, or none is left.

    Args:
        counts: How many raters gave each value [units, values].
        times: How often each unit occurs [units]; once if not given.

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

    1 is the same order, -1 the reverse; items that one score ties count for neither. Undefined (nan) where a score
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
    # The square root rounds: the same order would come out a hair above 1.
    return np.clip(_ratio(product, np.sqrt(squares[0] * squares[1])), -1.0, 1.0)


def over_seeds(by_seed: Mapping[int, float]) -> Estimate:
    """Return the estimate of a coefficient given by seed; its interval ends at full agreement."""
    made = estimate(by_seed.values())
    return replace(made, low=max(made.low, -1.0), high=min(made.high, 1.0)) if made.method else made


def _ratio(above: Floats, below: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(below > 0, above / below, math.nan)[()]
