"""Bulyan (El Mhamdi et al. 2018), with Krum as the rule that it repeats."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmark.errors import NotApplicableError
from benchmark.updates import Aggregate, RoundContext, Updates
from defenses._columns import FLOAT32, OrderStatistics, blocks
from defenses._distances import squared_distances
from defenses._krum import lowest
from defenses.base import Defense, Knowledge, Stage, register, selection

_WIDTH = 8_192
"""Columns in a block of float64 values."""


@register(
    title="Bulyan",
    description=(
        "Runs Krum again and again, each time without the updates that it has chosen before, until n - 2f updates are "
        "chosen. In every coordinate it then averages the n - 4f chosen values that lie closest to their median, so "
        "that an update that is close to the others as a whole cannot hide one extreme value."
    ),
    paper="El Mhamdi et al. 2018, arXiv 1802.07927",
    stages=(Stage.AGGREGATE,),
    knowledge=Knowledge.DECLARED_BOUND,
)
class Bulyan(Defense):
    """Aggregate θ = n - 2f updates, chosen by repeated Krum, to the mean of the β = θ - 2f values next to the median.

    1. Selection: with r updates left, Krum's score of each is the sum of its squared distances to the r - f - 2 nearest
       others that are left, at least one. The lowest score is chosen and taken out, until θ are chosen. With one
       neighbour the two nearest updates always tie: a tie goes to the smaller sum of squared distances to all that are
       left, and then to the earlier client id.
    2. In every coordinate, average the β of the θ chosen values that are closest to the median of the θ; if two are
       equally close, the smaller value counts. The median of an even number is the mean of the two middle values.

    The reported weights are 1 / θ for each chosen update. Sample counts are ignored. Condition: n ≥ 4f + 3. In a round
    that a rejected update made smaller than planned, f is lowered to the largest bound that meets it.
    Source: El Mhamdi, Guerraoui and Rouault 2018, arXiv 1802.07927.

    On the line 0, 1, 2, 3, 4, 5, 40 with f = 1, Krum with the neighbours 4, 3, 2, 1 and 1 takes 3, 2, 4, 1 and 5. The
    three of them that are closest to their median 3 are 2, 3 and 4:

    >>> from defenses._examples import one_round
    >>> line = [[0.0], [1.0], [2.0], [3.0], [4.0], [5.0], [40.0]]
    >>> result = Bulyan().aggregate(*one_round(line, malicious=1))
    >>> result.update.tolist(), result.weights.tolist()
    ([3.0], [0.0, 0.2, 0.2, 0.2, 0.2, 0.2, 0.0])
    """

    def check_shape(self, participants: int, declared_malicious: int) -> None:
        """Refuse n < 4f + 3.

        Raises:
            NotApplicableError: Fewer than 4f + 3 updates a round.
        """
        needed = 4 * declared_malicious + 3
        if participants < needed:
            raise NotApplicableError(
                f"bulyan needs n >= 4f + 3 updates a round: f = {declared_malicious} needs n >= {needed}, "
                f"but n = {participants}; let more clients take part or declare a smaller f"
            )

    def degenerate_as(self, participants: int, declared_malicious: int) -> str | None:
        """Return ``"fedavg"`` at f = 0, where all updates are averaged; that holds for clients with equal counts."""
        del participants
        return "fedavg" if declared_malicious == 0 else None

    def aggregate(self, updates: Updates, context: RoundContext) -> Aggregate:
        """Return the mean of the values next to the median, with equal weights on the chosen updates."""
        participants = len(updates)
        bound = max(0, min(context.declared_malicious, (participants - 3) // 4))
        chosen = _repeated_krum(squared_distances(updates.matrix.unbind()), participants - 2 * bound, bound)
        update = _mean_around_median(updates.matrix, chosen, participants - 4 * bound)
        return Aggregate(update, selection(torch.tensor(chosen), participants))


def _repeated_krum(distances: Tensor, count: int, bound: int) -> list[int]:
    """Return the ``count`` clients that Krum chooses one after the other, ascending, from distances ``[n, n]``."""
    remaining = list(range(len(distances)))
    chosen = []
    for _ in range(count):
        between = distances[remaining][:, remaining]
        others = between.clone().fill_diagonal_(float("inf")).sort(dim=1).values
        # The last of one update has no others, and the empty sum is its score.
        scores = others[:, : min(max(1, len(remaining) - bound - 2), len(remaining) - 1)].sum(dim=1)
        tied = (scores == scores.min()).nonzero().squeeze(1)
        chosen.append(remaining.pop(int(tied[lowest(between.sum(dim=1)[tied], 1)])))
    return sorted(chosen)


def _mean_around_median(matrix: Tensor, chosen: list[int], count: int) -> Tensor:
    """Return per column the mean of the ``count`` values of the ``chosen`` rows that are closest to their median.

    Args:
        matrix: Finite float32 tensor ``[n, d]``; left unchanged.
        chosen: Indices of the rows.
        count: Number of values that are averaged, at most ``len(chosen)``.

    Returns:
        Finite float32 tensor ``[d]``.
    """
    size, dimension = len(chosen), matrix.shape[1]
    result = torch.empty(dimension)
    statistics = OrderStatistics(size, range(size), min(_WIDTH, dimension), matrix.dtype)
    rows = [matrix[index] for index in chosen]
    for columns in blocks(dimension, _WIDTH):
        ordered = [value.double() for value in statistics.of([row[columns] for row in rows])]
        median = (ordered[(size - 1) // 2] + ordered[size // 2]).mul_(0.5)
        # The closest values are neighbours in the order. Begin with the smallest ones, and exchange the smallest for
        # the next larger one while that one is closer to the median.
        total = torch.stack(ordered[:count]).sum(dim=0)
        for leaving, entering in zip(ordered, ordered[count:], strict=False):
            closer = entering - median < median - leaving
            total += torch.where(closer, entering - leaving, 0.0)
        result[columns] = total.div_(count).clamp_(FLOAT32.min, FLOAT32.max)
    return result
