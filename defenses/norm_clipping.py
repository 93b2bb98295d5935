"""Norm clipping at the round's median norm (after Sun et al. 2019)."""

from __future__ import annotations

import torch

from benchmark.updates import Aggregate, RoundContext, Updates
from defenses._columns import weighted_sum
from defenses._distances import squared_norms
from defenses.base import Defense, Knowledge, Stage, register


@register(
    title="Norm clipping",
    description=(
        "Shortens every update that is longer than the round's median update to that length and then takes the usual "
        "average weighted by training rows, so that nobody gains influence by sending a larger update. No noise is "
        "added."
    ),
    paper="Sun et al. 2019, arXiv 1911.07963",
    stages=(Stage.AGGREGATE,),
    knowledge=Knowledge.NONE,
)
class NormClipping(Defense):
    """Aggregate to Σ w_i c_i x_i / Σ w_i with c_i = min(1, M / ‖x_i‖), w_i the sample counts.

    M is the median of the norms ‖x_1‖, …, ‖x_n‖ (mean of the two middle ones for even n) in place of the paper's fixed
    bound, which would depend on the model's scale. Condition: n ≥ 1.

    No client weights are reported: clipping bounds lengths and distrusts nobody. Around half of all clients, honest or
    not, lie above a median, so w_i c_i read as a detection would accuse the wrong ones.
    Source: Sun et al. 2019, arXiv 1911.07963, section 4, without noise.

    The norms are 5, 10 and 1, so the second is halved:

    >>> from defenses._examples import one_round
    >>> NormClipping().aggregate(*one_round([[3.0, 4.0], [6.0, 8.0], [0.0, 1.0]])).update.tolist()
    [2.0, 3.0]
    """

    def degenerate_as(self, participants: int, declared_malicious: int) -> str | None:
        """Return ``"fedavg"`` for a single client, whose norm is the median."""
        del declared_malicious
        return "fedavg" if participants == 1 else None

    def aggregate(self, updates: Updates, context: RoundContext) -> Aggregate:
        """Return the weighted mean of the clipped updates."""
        del context
        norms = squared_norms(updates.matrix.unbind()).sqrt()
        bound = torch.quantile(norms, 0.5)
        factors = torch.where(norms > bound, bound / norms, 1.0)
        weights = updates.sample_counts.double() / updates.sample_counts.sum()
        return Aggregate(weighted_sum(updates.matrix, weights * factors))
