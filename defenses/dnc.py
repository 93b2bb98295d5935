"""Divide-and-Conquer (Shejwalkar and Houmansadr 2021)."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmark.errors import NotApplicableError
from benchmark.updates import Aggregate, RoundContext, Updates
from defenses._columns import weighted_sum
from defenses._krum import lowest
from defenses.base import Defense, Knowledge, Stage, register, selection

COORDINATES = 10_000
"""Size b of the coordinate sample."""


@register(
    title="DnC",
    description=(
        "Divide-and-Conquer looks for the direction in which a random sample of the updates' coordinates varies most, "
        "drops the f updates that reach furthest along it, and averages the rest equally."
    ),
    paper="Shejwalkar and Houmansadr 2021, NDSS",
    stages=(Stage.AGGREGATE,),
    knowledge=Knowledge.DECLARED_BOUND,
)
class DnC(Defense):
    """Aggregate to the unweighted mean of the n - f updates with the lowest outlier score.

    With C the centred ``[n, b]`` matrix of b = min(d, 10,000) coordinates drawn from the defense's own stream and v its
    top right singular vector, score_i = (C_i · v)². One iteration, filter factor c = 1. Ties go to the earlier client
    id; sample counts are ignored. Condition: n > f; in a round with f updates or fewer, all but one are dropped.
    Source: Shejwalkar and Houmansadr 2021, NDSS, algorithm 2.

    The centred line -5, -4, -3, 12 has the scores 25, 16, 9 and 144:

    >>> from defenses._examples import one_round
    >>> result = DnC().aggregate(*one_round([[0.0], [1.0], [2.0], [17.0]], malicious=2))
    >>> result.update.tolist(), result.weights.tolist()
    ([1.5], [0.0, 0.5, 0.5, 0.0])
    """

    def check_shape(self, participants: int, declared_malicious: int) -> None:
        """Refuse n ≤ f.

        Raises:
            NotApplicableError: No update would be left.
        """
        if participants <= declared_malicious:
            raise NotApplicableError(
                f"dnc needs n > f updates a round, but n = {participants} and f = {declared_malicious}; "
                f"let more clients take part or declare a smaller f"
            )

    def degenerate_as(self, participants: int, declared_malicious: int) -> str | None:
        """Return ``"trimmed_mean"`` at f = 0, where both are the unweighted mean."""
        del participants
        return "trimmed_mean" if declared_malicious == 0 else None

    def aggregate(self, updates: Updates, context: RoundContext) -> Aggregate:
        """Return the mean of the kept updates, with equal weights on them."""
        participants = len(updates)
        sample = updates.matrix[:, _sample(updates.matrix.shape[1], context.generator)].double()
        scores = _outlier_scores(sample)
        kept = lowest(scores, max(1, participants - context.declared_malicious))
        weights = selection(kept, participants)
        return Aggregate(weighted_sum(updates.matrix, weights), weights)


def _sample(dimension: int, generator: torch.Generator) -> Tensor:
    """Return min(d, b) distinct coordinates, ascending, every set equally likely."""
    if dimension <= COORDINATES:
        return torch.arange(dimension)
    # Replacing the repeats until b are distinct treats all coordinates alike and, unlike a permutation of all of
    # them, needs no memory of the updates' own order.
    drawn: set[int] = set()
    while len(drawn) < COORDINATES:
        drawn.update(torch.randint(dimension, (COORDINATES - len(drawn),), generator=generator).tolist())
    return torch.tensor(sorted(drawn))


def _outlier_scores(sample: Tensor) -> Tensor:
    """Return the squared projections ``[n]`` of the centred float64 ``sample`` ``[n, b]`` on its main direction."""
    centred = sample - sample.mean(dim=0)
    direction: Tensor = torch.linalg.svd(centred, full_matrices=False).Vh[0]
    # Row by row, so that equal updates get bitwise equal scores and their tie is decided by the client id.
    return (centred * direction).sum(dim=1).square()
