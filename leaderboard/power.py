"""Power: the number of seeds that separates two defenses which differ by a given number of points.

Power is that of the paired t test which ranks rest on (:mod:`leaderboard.scores.stats`), at the spread that the rows
show. In a board a pair must pass Holm's first step, the level divided by the number of pairs, unless other pairs have
been separated before it: the number of seeds for a board is therefore an upper bound, and the one for a pair alone a
lower. The observed spread is itself an estimate, a rough one below ten seeds; the 90 % quantile over pairs is there for
that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from statistics import stdev

import numpy as np

from benchmark.errors import FedSafetyError, UsageError, unknown_name
from leaderboard.citation.cite import of_suite
from leaderboard.ranking.board import RANKED, Board
from leaderboard.ranking.boards import boards
from leaderboard.rows.rows import Rows
from leaderboard.scores.stats import ALPHA, EQUAL
from leaderboard.scores.summaries import OVERALL

POWER = 0.8
"""Chance of separating a pair that differs by the asked points."""
SMALL_QUANTILE, LARGE_QUANTILE = 0.5, 0.9
MIN_SEEDS, MAX_SEEDS = 2, 10**9
DETAIL = 0.01
"""Points to which a detectable difference is rounded."""


@dataclass(frozen=True)
class Spread:
    """A standard deviation of paired differences, with the seeds that it asks for.

    Attributes:
        name: Whose it is: ``median pair``, ``90 % of pairs`` or ``A - B``.
        sd: Standard deviation over seeds of the paired difference, in points.
        alone: Seeds that separate the asked difference if this is the only comparison.
        board: The same if all ranked defenses of the view are compared.
        detectable: Difference in points that the present number of seeds separates in a board; ``None`` where even 100
            points are too few.
    """

    name: str
    sd: float
    alone: int
    board: int
    detectable: float | None


@dataclass(frozen=True)
class Power:
    """The answer to "how many seeds separate ``points`` points?", for one view of a suite.

    Attributes:
        suite: Suite id.
        scenario: Scenario id; ``*`` for the mean over the compared scenarios.
        metric: Metric name.
        points: The asked difference, in points (0 to 100).
        power: Chance of separating a pair that differs so much.
        alpha: Error rate of the comparisons together.
        seeds: Present number of seeds.
        comparisons: Number of pairs among the ranked defenses.
        constant: Pairs whose difference is the same on every seed; the exact test over probes judges them, and more
            seeds add nothing.
        spreads: One line each; for the asked pair, or the median and the 90 % quantile of the pairs that vary.
    """

    suite: str
    scenario: str
    metric: str
    points: float
    power: float
    alpha: float
    seeds: int
    comparisons: int
    constant: int
    spreads: tuple[Spread, ...]


def power_report(
    rows: Rows,
    suite: str | None,
    scenario: str | None,
    points: float,
    pair: tuple[str, str] | None = None,
    *,
    metric: str = "safety",
) -> Power:
    """Return how many seeds separate ``points`` points at the observed variance.

    Args:
        rows: Rows of at least two seeds.
        suite: Suite id; ``None`` if the rows are of one suite.
        scenario: An attacked scenario; ``None`` for the mean over the compared ones.
        points: Difference of a share in points, above 0 and below 100.
        pair: Two defenses; without them all pairs of ranked defenses are looked at.
        metric: A score that is a share.

    Raises:
        UsageError: If ``points`` is out of range, or a suite, scenario, metric or defense is unknown.
        FedSafetyError: If there are not two seeds, not two ranked defenses, or no difference that varies.
    """
    if not 0 < points < 100:
        raise UsageError(f"a difference of {points:g} points cannot be planned for; give more than 0 and less than 100")
    board = _board(boards(rows), suite)
    view = scenario or OVERALL
    if view != OVERALL and view not in board.by_scenario:
        raise unknown_name("attacked scenario", view, board.by_scenario)
    found = [summary for entry in board.entries for summary in entry.scenarios.values()]
    metrics = {name for summary in found for name in summary.values}
    if metric not in metrics:
        raise unknown_name("metric", metric, metrics)
    if not any(summary.probes(metric) for summary in found):
        raise UsageError(f"{metric!r} is not a share, so it has no points; name one that is, such as safety or utility")
    ranked = [line.entry.id for line in board.standings(view) if line.group == RANKED]
    if pair is None and len(ranked) < 2:
        raise FedSafetyError(
            f"{_name(view)} has {len(ranked)} ranked defenses, and a comparison takes two; name a pair, or run more"
        )
    names = ranked if pair is None else _known(board, pair)
    values = {name: board.values(view, name, metric) for name in names}
    _check(values, view, metric)
    spreads = {
        f"{a} - {b}": stdev(values[a][seed] - values[b][seed] for seed in sorted(values[a].keys() & values[b].keys()))
        for a, b in combinations(names, 2)
    }
    varying = {name: 100 * sd for name, sd in spreads.items() if sd > EQUAL}
    if not varying:
        raise FedSafetyError(
            f"no difference varies between seeds in {_name(view)}, so more seeds add nothing: "
            "the exact test over probes judges such pairs"
        )
    if pair is None:
        small, large = np.quantile(list(varying.values()), (SMALL_QUANTILE, LARGE_QUANTILE))
        varying = {"median pair": float(small), "90 % of pairs": float(large)}
    seeds = min(len(values[a].keys() & values[b].keys()) for a, b in combinations(names, 2))
    comparisons = max(1, math.comb(len(ranked), 2))
    return Power(
        suite=board.suite,
        scenario=view,
        metric=metric,
        points=points,
        power=POWER,
        alpha=ALPHA,
        seeds=seeds,
        comparisons=comparisons,
        constant=sum(sd <= EQUAL for sd in spreads.values()),
        spreads=tuple(_spread(name, sd, points, seeds, comparisons) for name, sd in varying.items()),
    )


def seeds_needed(
    sd_of_differences: float, difference: float, comparisons: int = 1, alpha: float = ALPHA, power: float = POWER
) -> int:
    """Return the smallest number of seeds at which a paired t test separates ``difference`` with chance ``power``.

    Args:
        sd_of_differences: Standard deviation over seeds of the paired difference, above 0.
        difference: True difference in the same unit, above 0.
        comparisons: Size of the family; the test is made at ``alpha / comparisons``, two-sided.
        alpha: Error rate of the family.
        power: Chance of separating the pair in the right direction.

    Returns:
        The number of seeds, at least 2.

    Raises:
        UsageError: If an argument is out of range, or a billion seeds are too few.
    """
    for name, value in (("standard deviation", sd_of_differences), ("difference", difference)):
        if not 0 < value < math.inf:
            raise UsageError(f"a {name} of {value:g} has no power analysis; give a finite number above 0")
    if comparisons < 1 or not 0 < alpha < 1 or not 0 < power < 1:
        raise UsageError(
            f"{comparisons} comparisons at error rate {alpha:g} and power {power:g}: give at least one comparison, "
            "and rates between 0 and 1"
        )
    effect = difference / sd_of_differences

    def enough(seeds: int) -> bool:
        return chance(effect, seeds, alpha / comparisons) >= power

    high = MIN_SEEDS
    while not enough(high):
        if high > MAX_SEEDS:
            raise UsageError(f"{MAX_SEEDS} seeds do not separate {difference:g}; ask for a larger difference")
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return max(high, MIN_SEEDS)


def chance(effect: float, seeds: int, alpha: float = ALPHA) -> float:
    """Return the chance that a two-sided paired t test finds a difference in the right direction.

    Args:
        effect: True difference over the standard deviation of differences.
        seeds: Number of seeds, at least 2.
        alpha: Level of the test.
    """
    from statsmodels.stats.power import ttest_power  # takes over a second to import, for one command

    found = float(ttest_power(effect, seeds, alpha / 2, alternative="larger"))
    # The non-central t gives no number where the chance to miss is below what a double holds.
    return 1.0 if math.isnan(found) else found


def _board(found: list[Board], suite: str | None) -> Board:
    by_id = {board.suite: board for board in found}
    if suite is None and len(by_id) == 1:
        return next(iter(by_id.values()))
    if suite is None:
        raise UsageError(f"the rows are of {len(by_id)} suites ({', '.join(sorted(by_id)) or 'none'}); name one")
    return of_suite(found, suite)


def _known(board: Board, pair: tuple[str, str]) -> list[str]:
    known = [entry.id for entry in board.entries]
    for name in pair:
        if name not in known:
            raise unknown_name("defense", name, known)
    if pair[0] == pair[1]:
        raise UsageError(f"{pair[0]!r} is given twice; name two different defenses")
    return list(pair)


def _check(values: Mapping[str, Mapping[int, float]], view: str, metric: str) -> None:
    for name, by_seed in values.items():
        if not by_seed:
            raise FedSafetyError(
                f"{name!r} has no {metric} on every seed of {_name(view)}, so its variance is unknown; "
                "see the leaderboard for what is missing"
            )
    for a, b in combinations(values, 2):
        shared = len(values[a].keys() & values[b].keys())
        if shared < MIN_SEEDS:
            raise FedSafetyError(
                f"{a!r} and {b!r} share {shared} seeds in {_name(view)}, which shows no variance; run at least two"
            )


def _name(view: str) -> str:
    return "the mean over scenarios" if view == OVERALL else repr(view)


def _spread(name: str, sd: float, points: float, seeds: int, comparisons: int) -> Spread:
    return Spread(
        name, sd, seeds_needed(sd, points), seeds_needed(sd, points, comparisons), _detectable(sd, seeds, comparisons)
    )


def _detectable(sd: float, seeds: int, comparisons: int) -> float | None:
    """Return the smallest difference in points that ``seeds`` seeds separate in a board."""
    low, high = 0.0, 100.0
    if chance(high / sd, seeds, ALPHA / comparisons) < POWER:
        return None
    while high - low > DETAIL:
        middle = (low + high) / 2
        low, high = (low, middle) if chance(middle / sd, seeds, ALPHA / comparisons) >= POWER else (middle, high)
    return high
