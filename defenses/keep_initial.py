"""Reference row: the clients' work is thrown away."""

from __future__ import annotations

import torch

from benchmark.updates import Aggregate, RoundContext, Updates
from defenses.base import Defense, Knowledge, Stage, register


@register(
    title="Keep the initial model",
    description=(
        "Throws away everything the clients send and serves the model that training started from. No attack reaches "
        "it and nothing is learned, which shows what a high safety score alone is worth."
    ),
    stages=(Stage.AGGREGATE,),
    knowledge=Knowledge.NONE,
    ranked=False,
)
class KeepInitial(Defense):
    """Aggregate to the zero update, with zero weight on every client; defined for every n.

    >>> from defenses._examples import one_round
    >>> result = KeepInitial().aggregate(*one_round([[1.0, 2.0], [3.0, 4.0]]))
    >>> result.update.tolist(), result.weights.tolist()
    ([0.0, 0.0], [0.0, 0.0])
    """

    uses_updates = False

    def aggregate(self, updates: Updates, context: RoundContext) -> Aggregate:
        """Return the zero update."""
        del context
        return Aggregate(
            torch.zeros(updates.matrix.shape[1], dtype=updates.matrix.dtype),
            torch.zeros(len(updates), dtype=torch.float64),
        )
