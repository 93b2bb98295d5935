"""Centered clipping (Karimireddy et al. 2021), with the median distance as radius."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmark.updates import Aggregate, RoundContext, Updates
from defenses._clipping import clip_factors, distances_to
from defenses._columns import FLOAT32, weighted_sum
from defenses.base import Defense, Knowledge, Stage, register


@register(
    title="Centered clipping",
    description=(
        "Starts from the aggregate of the round before and moves towards the clients' updates, each counted equally. "
        "An update that lies farther from that point than the round's median update pulls only as strongly as the "
        "median one."
    ),
    paper="Karimireddy et al. 2021, arXiv 2012.10333",
    stages=(Stage.AGGREGATE,),
    knowledge=Knowledge.NONE,
)
class CenteredClipping(Defense):
    """Aggregate to v + (1/n) Σ (x_i - v) · min(1, τ / ‖x_i - v‖), where v is the aggregate of the round before.

    v is zero in the first round. There is one inner step (L = 1). Condition: n ≥ 1.

    τ is the round's median distance ‖x_i - v‖ (mean of the two middle ones for even n). It replaces the fixed radius
    τ = 10 / (1 - β) for worker momentum β, 100 at β = 0.9, which public implementations take as their default. A fixed
    radius depends on the scale of the updates: adapters' updates are far shorter than 100, so that τ = 100 would clip
    nothing and the rule would be the mean. The median scales with the updates, and fewer than half of the clients
    cannot raise it above the largest honest distance.

    The x_i are the clients' updates of the round. The paper's are momenta of the workers, which clients do not send
    here. Sample counts are ignored. No client weights are reported, because clipping bounds lengths and distrusts
    no client.
    Source: Karimireddy, He and Jaggi 2021, arXiv 2012.10333.

    In the first round v is zero, so with equal sample counts that round's aggregate is the one of ``norm_clipping``.
    In a suite of one round the two rules are the same function there. :meth:`degenerate_as` sees n and f and not the
    number of rounds, so such a suite names the reason where it leaves the rule out.

    The first round clips 6 to the median norm 2 and gives v = 5/3. A second round of the same updates has the
    distances 2/3, 1/3 and 13/3 to v, and τ = 2/3:

    >>> from defenses._examples import one_round
    >>> defense, line = CenteredClipping(), one_round([[1.0], [2.0], [6.0]])
    >>> first, second = (float(defense.aggregate(*line).update) for _ in range(2))
    >>> round(first * 3, 4), round(second * 9, 4)
    (5.0, 16.0)
    """

    def __init__(self) -> None:
        self._center: Tensor | None = None

    def degenerate_as(self, participants: int, declared_malicious: int) -> str | None:
        """Return ``"fedavg"`` for a single client, whose distance is the median."""
        del declared_malicious
        return "fedavg" if participants == 1 else None

    def aggregate(self, updates: Updates, context: RoundContext) -> Aggregate:
        """Return the new center, and keep a copy of it for the next round."""
        del context
        if self._center is None:
            self._center = torch.zeros(updates.matrix.shape[1])
        distances = distances_to(updates.matrix, self._center)
        update = clipped_step(updates.matrix, self._center, distances, torch.quantile(distances, 0.5))
        self._center.copy_(update)
        return Aggregate(update)


def clipped_step(matrix: Tensor, center: Tensor, distances: Tensor, radius: Tensor) -> Tensor:
    """Return v + (1/n) Σ (x_i - v) · min(1, τ / ‖x_i - v‖) as a new float32 tensor ``[d]``.

    Args:
        matrix: Updates x, finite float32 tensor ``[n, d]``.
        center: v, finite float32 tensor ``[d]``.
        distances: ‖x_i - v‖, float64 tensor ``[n]``.
        radius: τ, float64 tensor without dimensions.
    """
    weights = clip_factors(distances, radius) / len(matrix)
    update = weighted_sum(matrix, weights)
    return update.add_(center, alpha=float(1 - weights.sum())).clamp_(FLOAT32.min, FLOAT32.max)
