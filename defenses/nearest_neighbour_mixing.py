"""Nearest-neighbour mixing before the trimmed mean (Allouah et al. 2023)."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmark.errors import NotApplicableError
from benchmark.updates import Aggregate, RoundContext, Updates
from defenses._columns import FLOAT32, blocks, mean_of_ranks
from defenses._distances import squared_distances
from defenses.base import Defense, Knowledge, Stage, register

_WIDTH = 8_192
"""Columns in a block of float64 values."""


@register(
    title="Nearest-neighbour mixing",
    description=(
        "Replaces every update by the average of the n - f updates that are nearest to it, itself included, and takes "
        "the trimmed mean of these averages. Mixing makes honest clients with different data more alike, so that the "
        "trimmed mean gives up less of their work."
    ),
    paper="Allouah et al. 2023, arXiv 2302.01772",
    stages=(Stage.AGGREGATE,),
    knowledge=Knowledge.DECLARED_BOUND,
)
class NearestNeighbourMixing(Defense):
    """Aggregate to the coordinate-wise trimmed mean of y_i = the mean of the n - f updates that are nearest to x_i.

    An update is its own nearest one; further ties in the distance go to the earlier client id. The trimmed mean drops
    the f smallest and the f largest values of every coordinate. Sample counts are ignored. No client weights are
    reported, because the second step works coordinate by coordinate. Condition: n ≥ 2f + 1. In a round that a rejected
    update made smaller than planned, f is lowered to the largest bound that meets it.
    Source: Allouah et al. 2023, arXiv 2302.01772 (NNM), with the trimmed mean of Yin et al. 2018.

    On the line 0, 1, 3, 8, 100 with f = 1 the means of the four nearest are 3, 3, 3, 3 and 28:

    >>> from defenses._examples import one_round
    >>> line = [[0.0], [1.0], [3.0], [8.0], [100.0]]
    >>> NearestNeighbourMixing().aggregate(*one_round(line, malicious=1)).update.tolist()
    [3.0]
    """

    def check_shape(self, participants: int, declared_malicious: int) -> None:
        """Refuse n < 2f + 1.

        Raises:
            NotApplicableError: Fewer than 2f + 1 updates a round.
        """
        needed = 2 * declared_malicious + 1
        if participants < needed:
            raise NotApplicableError(
                f"nearest_neighbour_mixing needs n >= 2f + 1 updates a round: f = {declared_malicious} needs "
                f"n >= {needed}, but n = {participants}; let more clients take part or declare a smaller f"
            )

    def degenerate_as(self, participants: int, declared_malicious: int) -> str | None:
        """Return ``"fedavg"`` at f = 0 and ``"krum_fedllm_attack"`` at n = 3, f = 1.

        Without f every y_i is the mean: FedAvg for clients that report equal counts. Of three updates the two nearest
        ones mix to the same mean, which is the median of the three means.
        """
        if declared_malicious == 0:
            return "fedavg"
        return "krum_fedllm_attack" if (participants, declared_malicious) == (3, 1) else None

    def aggregate(self, updates: Updates, context: RoundContext) -> Aggregate:
        """Return the trimmed mean of the mixed updates; it has no client weights."""
        participants, dimension = updates.matrix.shape
        bound = min(context.declared_malicious, (participants - 1) // 2)
        mixing = _mixing(squared_distances(updates.matrix.unbind()), participants - bound)
        update = torch.empty(dimension)
        for columns in blocks(dimension, _WIDTH):
            mixed = mixing @ updates.matrix[:, columns].double()
            ordinary = mixed.clamp_(FLOAT32.min, FLOAT32.max).float()
            update[columns] = mean_of_ranks(ordinary, range(bound, participants - bound))
        return Aggregate(update)


def _mixing(distances: Tensor, count: int) -> Tensor:
    """Return the float64 matrix ``[n, n]`` that turns each update into the mean of the ``count`` nearest ones.

    Args:
        distances: Squared distances ``[n, n]`` with a zero diagonal; their diagonal is overwritten.
        count: How many are averaged, each update itself included.
    """
    nearest = distances.fill_diagonal_(-1).sort(dim=1, stable=True).indices[:, :count]
    return torch.zeros_like(distances).scatter_(1, nearest, 1 / count)
