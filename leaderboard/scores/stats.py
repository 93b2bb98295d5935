"""Intervals, paired comparisons and ranks from scores by seed.

Estimand. The expected score of a defense over run seeds (client data, schedule, adapter initialisation, batch order),
conditional on one base model and one fixed set of probes. The intervals do not cover the score under another base model
or other probes.

Family. All pairs of the ranked defenses in ONE scenario. Holm's step-down adjustment bounds by :data:`ALPHA` the
chance that any equal pair of that scenario is called different. The bound does not hold across scenarios, and the
interval of a difference covers that difference alone.

Unit. The seed, not the probe. The answers of one model to its probes share that model's training run; a second run
moves them together, by several points. Resampling probes varies the probes, which the estimand holds fixed, and
resampling few seeds underestimates how far runs scatter. In a simulation of this design the percentile bootstrap over
seeds and probes covered 81 / 89 / 95 % at 3 / 5 / 10 seeds. For eleven equal defenses at 5 seeds, it called 25 to 89 %
of boards separated even after Holm, and seed-level t with Holm 4 to 6 %. ``leaderboard/scores/simulation.py`` repeats
that comparison; docs/statistics.md has its output.

Method. Student's t on the scores by seed, and on the differences by seed of two defenses, which share a seed's data and
schedule. Where seeds do not vary (all 0 or all 1, or two defenses apart by the same amount on every seed) t would
return a point. Then the only spread that can be measured is that of the probes, and the exact binomial method over
probes is used, marked ``exact``: Clopper-Pearson for a share, McNemar's exact test for a difference. Probes are counted
once and not once per seed, because every seed has the same probes. A score that is not a share has no such fallback:
it gets no interval, and no difference is called significant.

Near the end of the scale, where the mean is at most :data:`NEAR` probe away from 0 or 1, a t interval is widened to
contain the exact one. There seeds seldom differ from each other and t is too narrow (84 to 94 % at 10 seeds). Without
the widening, nine perfect seeds with one that missed a probe would get a narrower interval than ten perfect seeds. No
interval allows for collapses that its seeds do not contain: where one run in twenty collapses, most samples have none.
docs/statistics.md states the cost.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
import numpy.typing as npt
from scipy.special import bdtr, betaincinv, stdtr, stdtrit  # scipy.stats takes most of a second to import

from benchmark.errors import FedSafetyError

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

ALPHA = 0.05
"""Error rate: of an interval, and of a scenario's comparisons together."""

T, EXACT, NONE = "t", "exact", ""
"""Methods: seed-level t; probe-level exact because seeds do not vary; no interval."""

NEAR = 1.0
"""Distance from the end of a scale, in probes, within which an interval is at least as wide as the exact one."""

EQUAL = 1e-9
"""Distance below which two scores are equal: far below one probe, far above rounding."""


@dataclass(frozen=True)
class Estimate:
    """Mean of a score over seeds, with its 95 % interval.

    Attributes:
        mean: Mean over seeds; nan without seeds.
        sd: Sample standard deviation over seeds, nan below two; a spread, not an error of the mean.
        count: Number of seeds.
        low: Lower end of the interval; nan where there is none.
        high: Upper end.
        method: ``t``, ``exact`` (the seeds do not vary) or empty (one seed, or seeds that do not vary in a score that
            is not a share).
    """

    mean: float
    sd: float
    count: int
    low: float = math.nan
    high: float = math.nan
    method: str = NONE


@dataclass(frozen=True)
class Difference:
    """Mean paired difference of two defenses, with its 95 % interval and two-sided p value.

    Attributes:
        mean: Mean of first minus second over seeds.
        low: Lower end of the interval; nan where there is none.
        high: Upper end.
        p: Two-sided p value of no difference, unadjusted; nan where there is no test (one seed, or the same non-zero
            difference on every seed of a score that is not a share).
        count: Number of seeds.
        method: ``t``, ``exact`` (the differences do not vary) or empty.
    """

    mean: float
    low: float
    high: float
    p: float
    count: int
    method: str


@dataclass(frozen=True)
class Comparisons:
    """All pairs of m defenses on the same seeds; entry [i, j] of each [m, m] array is about i minus j.

    Attributes:
        mean: Mean differences; antisymmetric.
        low: Lower ends of the 95 % intervals, each for its pair alone; nan where there is none and on the diagonal.
        high: Upper ends; ``high[i, j] == -low[j, i]``.
        p: Two-sided p values; symmetric, nan where there is no test and on the diagonal.
        adjusted: p after Holm over the m (m - 1) / 2 pairs; a pair without a test counts as one that is not rejected.
        method: Method of each pair, see :class:`Difference`.
        count: Number of seeds.
    """

    mean: Floats
    low: Floats
    high: Floats
    p: Floats
    adjusted: Floats
    method: npt.NDArray[np.str_]
    count: int

    def better(self, alpha: float = ALPHA) -> Bools:
        """Return [m, m]: whether i is significantly better (higher) than j at family-wise error rate ``alpha``."""
        with np.errstate(invalid="ignore"):
            return (self.adjusted < alpha) & (self.mean > 0)

    def pair(self, first: int, second: int) -> Difference:
        """Return ``first`` minus ``second``, with the unadjusted p value."""
        at = (first, second)
        return Difference(
            float(self.mean[at]),
            float(self.low[at]),
            float(self.high[at]),
            float(self.p[at]),
            self.count,
            str(self.method[at]),
        )


def estimate(values: Iterable[float], probes: int = 0) -> Estimate:
    """Return the mean of ``values`` with its 95 % interval.

    Args:
        values: One score a seed. An undefined score (nan) is left out if it is not a share, so that ``count`` is the
            number of seeds on which, for example, a recovery is defined.
        probes: Number of distinct probes behind a share in 0..1, whose interval is clipped to 0..1 and falls back to
            Clopper-Pearson over the probes if no seed differs. 0: the score is not a share.

    Raises:
        FedSafetyError: If a share is undefined or outside 0..1.
    """
    scores = [float(value) for value in values]
    if not probes:
        scores = [score for score in scores if not math.isnan(score)]
    elif not all(-EQUAL <= score <= 1 + EQUAL for score in scores):
        _check(np.array(scores), probes)
    count = len(scores)
    mean = math.fsum(scores) / count if scores else math.nan
    if count < 2:
        return Estimate(mean, math.nan, count)
    # A page forms tens of thousands of estimates; statistics.stdev computes in fractions and is thirty times slower.
    sd = math.sqrt(math.fsum((score - mean) ** 2 for score in scores) / (count - 1))
    varies = max(scores) - min(scores) > EQUAL
    half = _t_quantile(count - 1) * sd / math.sqrt(count)
    if not probes:
        return Estimate(mean, sd, count, mean - half, mean + half, T) if varies else Estimate(mean, 0.0, count)
    low, high = mean, mean
    if not varies or min(mean, 1 - mean) * probes <= NEAR + EQUAL:
        low, high = _exact(round(mean * probes), probes)
    if not varies:
        return Estimate(mean, 0.0, count, low, high, EXACT)
    return Estimate(mean, sd, count, max(0.0, min(low, mean - half)), min(1.0, max(high, mean + half)), T)


@cache
def _t_quantile(freedom: int) -> float:
    return float(stdtrit(freedom, 1 - ALPHA / 2))


@lru_cache(maxsize=65536)
def _exact(good: int, probes: int) -> tuple[float, float]:
    """Return the exact interval of a share; cached because most shares of a page are 0 or 1 of few probe sets."""
    low, high = clopper_pearson(np.array(good), np.array(probes))
    return float(low), float(high)


def paired(a: Sequence[float], b: Sequence[float], probes: int = 0) -> Difference:
    """Return the mean of ``a`` - ``b`` over seeds, with its 95 % interval and p value.

    Args:
        a: Scores of the first defense, one a seed.
        b: Scores of the second on the same seeds in the same order.
        probes: As for :func:`estimate`.

    Raises:
        FedSafetyError: If the lengths differ, a score is undefined, or a share is outside 0..1.
    """
    if len(a) != len(b):
        raise FedSafetyError(f"{len(a)} and {len(b)} seeds cannot be paired; give both defenses' scores by seed")
    return compare_all(np.array([a, b], np.float64), probes).pair(0, 1)


def compare_all(values: Floats, probes: int = 0) -> Comparisons:
    """Return all paired differences, their intervals, and p values adjusted by Holm.

    Args:
        values: Scores [m defenses, seeds], the same seeds in the same order for all.
        probes: As for :func:`estimate`.

    Raises:
        FedSafetyError: If ``values`` is not a table, a score is undefined, or a share is outside 0..1.
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 2:
        raise FedSafetyError(f"scores of shape {values.shape} cannot be compared; give [defenses, seeds]")
    _check(values, probes)
    m, count = values.shape
    first, second = _pairs(m)
    differences = values[first] - values[second]
    mean = differences.mean(axis=1) if count else np.full(len(first), math.nan)
    low, high, p = (np.full(len(first), math.nan) for _ in range(3))
    method = np.full(len(first), NONE, dtype="<U5")
    if count > 1:
        varies = np.ptp(differences, axis=1) > EQUAL
        sd = differences[varies].std(axis=1, ddof=1)
        error = sd / math.sqrt(count)
        half = stdtrit(count - 1, 1 - ALPHA / 2) * error
        low[varies], high[varies] = mean[varies] - half, mean[varies] + half
        p[varies] = 2 * stdtr(count - 1, -np.abs(mean[varies] / error))
        method[varies] = T
        if probes:
            near = varies & ((1 - np.abs(mean)) * probes <= NEAR + EQUAL)
            if (near | ~varies).any():  # most pairs need no exact test
                good = np.rint(values.mean(axis=1) * probes).astype(np.int64)
                exact = _mcnemar(good[first], good[second], probes)
                low[near], high[near] = np.minimum(low, exact[0])[near], np.maximum(high, exact[1])[near]
                low[~varies], high[~varies], p[~varies] = (part[~varies] for part in exact)
                method[~varies] = EXACT
            low, high = np.clip(low, -1, 1), np.clip(high, -1, 1)
        else:
            p[~varies & (np.abs(mean) <= EQUAL)] = 1.0
    adjusted = holm(p)
    return Comparisons(
        mean=_matrix(m, mean, 0.0 - mean, 0.0),
        low=_matrix(m, low, 0.0 - high),
        high=_matrix(m, high, 0.0 - low),
        p=_matrix(m, p, p),
        adjusted=_matrix(m, adjusted, adjusted),
        method=_names(m, method),
        count=count,
    )


def holm(p: Floats) -> Floats:
    """Return p values [k] adjusted by Holm's step-down method; an undefined p stays nan, but counts in the family."""
    p = np.asarray(p, np.float64)
    order = np.argsort(np.where(np.isnan(p), np.inf, p), kind="stable")
    steps = p[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


def clopper_pearson(good: Ints, total: Ints) -> tuple[Floats, Floats]:
    """Return the exact 95 % interval of a binomial share, for ``good`` of ``total`` elementwise (0 of 0: 0 to 1)."""
    tail = ALPHA / 2
    low = np.where(good > 0, betaincinv(np.maximum(good, 1), total - good + 1, tail), 0.0)
    high = np.where(good < total, betaincinv(good + 1, np.maximum(total - good, 1), 1 - tail), 1.0)
    return low, high


def _mcnemar(a: Ints, b: Ints, probes: int) -> tuple[Floats, Floats, Floats]:
    """Return interval and p value of the difference of two shares, ``a`` and ``b`` of the same ``probes``.

    Scores by seed hold only how many more probes went well, not how many went well under one defense alone. McNemar's
    p value grows with the number of the latter, so the largest possible number is assumed. Where seeds do not vary, a
    share is 0 or 1 and only one number is possible. The interval is (2 s - 1) d for the share d of discordant probes
    and the share s of those in favour of the first, with both at the Clopper-Pearson bounds that widen it. The interval
    excludes 0 exactly where p < ALPHA.
    """
    against = np.minimum(np.minimum(a, b), probes - np.maximum(a, b))
    for_first, for_second = against + np.maximum(a - b, 0), against + np.maximum(b - a, 0)
    discordant = for_first + for_second
    low_share, high_share = clopper_pearson(for_first, discordant)
    low_rate, high_rate = clopper_pearson(discordant, np.full_like(discordant, probes))
    low = (2 * low_share - 1) * np.where(low_share > 0.5, low_rate, high_rate)
    high = (2 * high_share - 1) * np.where(high_share < 0.5, low_rate, high_rate)
    return low, high, np.minimum(1.0, 2 * bdtr(np.minimum(for_first, for_second), discordant, 0.5))


@lru_cache(maxsize=256)
def _pairs(m: int) -> tuple[Ints, Ints]:
    """Return the positions of all pairs (i, j), i < j; cached because a board compares two defenses very often."""
    first, second = (np.asarray(part, np.int64) for part in np.triu_indices(m, 1))
    first.setflags(write=False)
    second.setflags(write=False)
    return first, second


def _matrix(m: int, above: Floats, below: Floats, diagonal: float = math.nan) -> Floats:
    """Return [m, m] with the pairs (i, j), i < j, ``above`` the diagonal and the pairs (j, i) ``below`` it."""
    matrix = np.full((m, m), diagonal)
    first, second = _pairs(m)
    matrix[first, second], matrix[second, first] = above, below
    return matrix


def _names(m: int, names: npt.NDArray[np.str_]) -> npt.NDArray[np.str_]:
    matrix = np.full((m, m), NONE, dtype=names.dtype)
    first, second = _pairs(m)
    matrix[first, second] = matrix[second, first] = names
    return matrix


def _check(values: Floats, probes: int) -> None:
    if np.isnan(values).any():
        raise FedSafetyError(
            "a seed has no score, so the seeds of the defenses differ; compare only defenses scored on every seed"
        )
    if probes and values.size and not (values.min() >= -EQUAL and values.max() <= 1 + EQUAL):
        worst = values.flat[int(np.argmax(np.abs(values - 0.5)))]
        raise FedSafetyError(f"a share of {probes} probes cannot be {worst:g}; give shares in 0..1, or 0 probes")
