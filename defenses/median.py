"""Coordinate-wise median (Yin et al. 2018)."""

from __future__ import annotations

from benchmark.updates import Aggregate, RoundContext, Updates
from defenses._columns import mean_of_ranks, middle_ranks
from defenses.base import Defense, Knowledge, Stage, register


@register(
    title="Coordinate-wise median",
    description=(
        "Takes the middle value of the clients' updates in every coordinate by itself (the mean of the two middle "
        "values when their number is even), so that fewer than half of the clients cannot move a coordinate beyond "
        "what honest clients sent. The result is in general no client's own update."
    ),
    paper="Yin et al. 2018, arXiv 1803.01498",
    stages=(Stage.AGGREGATE,),
    knowledge=Knowledge.NONE,
)
class Median(Defense):
    """Aggregate to the median of {x_1[k], …, x_n[k]} in every coordinate k; for even n the mean of the two middles.

    Sample counts are ignored. Condition: n ≥ 1. Source: Yin et al. 2018, arXiv 1803.01498, definition 1.

    >>> from defenses._examples import one_round
    >>> Median().aggregate(*one_round([[1.0, 8.0], [3.0, 0.0], [50.0, -4.0]])).update.tolist()
    [3.0, 0.0]
    >>> Median().aggregate(*one_round([[1.0], [2.0], [4.0], [99.0]])).update.tolist()
    [3.0]
    """

    def degenerate_as(self, participants: int, declared_malicious: int) -> str | None:
        """Return ``"fedavg"`` for a single client; with two clients that would hold for equal counts only."""
        del declared_malicious
        return "fedavg" if participants == 1 else None

    def aggregate(self, updates: Updates, context: RoundContext) -> Aggregate:
        """Return the coordinate-wise median; it has no client weights."""
        del context
        return Aggregate(mean_of_ranks(updates.matrix, middle_ranks(len(updates))))
