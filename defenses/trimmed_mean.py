"""Coordinate-wise trimmed mean (Yin et al. 2018)."""

from __future__ import annotations

from benchmark.errors import NotApplicableError
from benchmark.updates import Aggregate, RoundContext, Updates
from defenses._columns import mean_of_ranks
from defenses.base import Defense, Knowledge, Stage, register


@register(
    title="Trimmed mean",
    description=(
        "Drops the f smallest and the f largest values in every coordinate by itself and averages the rest, where f "
        "is the declared bound on malicious clients. With three clients and f = 1 it is the coordinate-wise median."
    ),
    paper="Yin et al. 2018, arXiv 1803.01498",
    stages=(Stage.AGGREGATE,),
    knowledge=Knowledge.DECLARED_BOUND,
)
class TrimmedMean(Defense):
    """Aggregate to the mean of the order statistics f + 1, …, n - f of every coordinate.

    Sample counts are ignored. Condition: n ≥ 2f + 1. In a round that a rejected update made smaller than planned, f is
    lowered to the largest bound that meets it. Source: Yin et al. 2018, arXiv 1803.01498, definition 2.

    >>> from defenses._examples import one_round
    >>> rows = [[1.0, 8.0], [2.0, 0.0], [4.0, 2.0], [50.0, -4.0], [3.0, 1.0]]
    >>> TrimmedMean().aggregate(*one_round(rows, malicious=1)).update.tolist()
    [3.0, 1.0]
    """

    def check_shape(self, participants: int, declared_malicious: int) -> None:
        """Refuse n < 2f + 1.

        Raises:
            NotApplicableError: Fewer than 2f + 1 updates a round.
        """
        needed = 2 * declared_malicious + 1
        if participants < needed:
            raise NotApplicableError(
                f"trimmed_mean needs n >= 2f + 1 updates a round: f = {declared_malicious} needs n >= {needed}, "
                f"but n = {participants}; let more clients take part or declare a smaller f"
            )

    def degenerate_as(self, participants: int, declared_malicious: int) -> str | None:
        """Return ``"median"`` where one or two values are left, ``"fedavg"`` where none is dropped.

        With f = 0 the rule is the unweighted mean: FedAvg for clients that report equal counts, as those of one cell
        do.
        """
        if participants in (2 * declared_malicious + 1, 2 * declared_malicious + 2):
            return "median"
        return "fedavg" if declared_malicious == 0 else None

    def aggregate(self, updates: Updates, context: RoundContext) -> Aggregate:
        """Return the coordinate-wise trimmed mean; it has no client weights."""
        participants = len(updates)
        trim = min(context.declared_malicious, (participants - 1) // 2)
        return Aggregate(mean_of_ranks(updates.matrix, range(trim, participants - trim)))
