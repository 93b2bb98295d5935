"""Rank agreement: whether the order of the defenses depends on the judge, or on the measure of safety.

The order is by mean over seeds: of safety by each judge, or of each metric. Reference rows, degenerate cells, and
defenses that lack a seed or one of the values are not ordered. The overall order uses the seeds that all compared
scenarios have.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from leaderboard.scores.cells import CellScore
from leaderboard.scores.coefficients import kendall_tau
from leaderboard.scores.names import MetricKind, member
from leaderboard.scores.summaries import OVERALL

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class RankAgreement:
    """Agreement of two judges, or of two metrics, on the order of the defenses.

    Attributes:
        first: Judge id, or name of a metric.
        second: Judge id, or name of a metric.
        scenario: Scenario, or :data:`OVERALL`.
        defenses: Ordered defenses.
        tau: Kendall's τ-b of the orders by mean over seeds; nan where undefined.
        by_seed: τ-b of the orders on each seed alone, where defined.
        reversed: Pairs of defenses of which the first judge calls the first safer and the second judge the second; of
            metrics accordingly.
    """

    first: str
    second: str
    scenario: str
    defenses: tuple[str, ...]
    tau: float
    by_seed: Mapping[int, float]
    reversed: tuple[tuple[str, str], ...]


def rank_agreement(
    cells: Sequence[CellScore], judges: Sequence[str], scenarios: Sequence[str], compared: Sequence[str]
) -> list[RankAgreement]:
    """Return the rank agreement of every two ``judges``, overall first, then by scenario.

    Args:
        cells: Final, finished cells.
        judges: Judge ids.
        scenarios: The scenarios to order in.
        compared: The scenarios of these whose mean is the overall safety.
    """
    return _agreements(cells, {judge: member(MetricKind.JUDGE, judge) for judge in judges}, scenarios, compared)


def order_agreement(
    cells: Sequence[CellScore],
    scenarios: Sequence[str],
    compared: Sequence[str],
    metrics: Sequence[str] = ("safety", MetricKind.MARGIN.value),
) -> list[RankAgreement]:
    """Return how far the orders of the defenses by two metrics agree, overall first, then by scenario.

    Higher values of each metric must be better. A scenario in which a metric is not measured is left out.

    Args:
        cells: Final, finished cells.
        scenarios: The scenarios to order in.
        compared: The scenarios of these whose mean is the overall value.
        metrics: Names of the metrics.
    """
    return _agreements(cells, {metric: metric for metric in metrics}, scenarios, compared)


def _agreements(
    cells: Sequence[CellScore], metrics: Mapping[str, str], scenarios: Sequence[str], compared: Sequence[str]
) -> list[RankAgreement]:
    """Return the rank agreement of every two of ``metrics``, given by the name to report and the name of the metric."""
    left_out = {(cell.row["scenario"], cell.row["defense"]) for cell in cells if cell.degenerate}
    ordered = [
        cell
        for cell in cells
        if cell.row["ranked"]
        and cell.row["scenario"] in scenarios
        and (cell.row["scenario"], cell.row["defense"]) not in left_out
    ]
    seeds = sorted({cell.row["seed"] for cell in ordered})
    defenses = sorted({cell.row["defense"] for cell in ordered})
    names = list(metrics)
    safety = np.full((len(names), len(scenarios), len(seeds), len(defenses)), math.nan)
    run = np.zeros((len(scenarios), len(seeds)), dtype=bool)
    for cell in ordered:
        place = scenarios.index(cell.row["scenario"]), seeds.index(cell.row["seed"])
        run[place] = True
        column = defenses.index(cell.row["defense"])
        for index, name in enumerate(names):
            safety[index, *place, column] = cell.metrics.get(metrics[name], math.nan)
    agreements = []
    for view, members in [(OVERALL, list(compared)), *((scenario, [scenario]) for scenario in scenarios)]:
        inside = [scenarios.index(member) for member in members]
        shared: Bools = np.logical_and.reduce(run[inside], axis=0) if members else np.zeros(len(seeds), dtype=bool)
        for first, second in combinations(range(len(names)), 2):
            values = safety[[first, second]][:, inside]
            complete = (~np.isnan(values) | ~run[inside][:, :, None]).all(axis=(0, 1, 2))
            if shared.any() and complete.sum() > 1:
                # Round, so that equal scores tie although they were summed in different orders.
                means = values[:, :, shared][..., complete].mean(axis=1).round(9)
                agreements.append(
                    _compared(
                        (names[first], names[second]),
                        view,
                        [defense for defense, whole in zip(defenses, complete, strict=True) if whole],
                        [seed for seed, held in zip(seeds, shared, strict=True) if held],
                        means,
                    )
                )
    return agreements


def _compared(
    judges: tuple[str, str], scenario: str, defenses: Sequence[str], seeds: Sequence[int], safety: Floats
) -> RankAgreement:
    """Return the rank agreement of ``safety`` [judge, seed, defense]."""
    first, second = safety.mean(axis=1).round(9)
    by_seed = kendall_tau(*safety)
    ahead = (first[:, None] > first[None, :]) & (second[:, None] < second[None, :])
    return RankAgreement(
        *judges,
        scenario,
        tuple(defenses),
        float(kendall_tau(first, second)),
        {seed: float(tau) for seed, tau in zip(seeds, by_seed, strict=True) if not math.isnan(tau)},
        tuple((defenses[i], defenses[j]) for i, j in np.argwhere(ahead)),
    )
