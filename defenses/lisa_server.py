"""Lisa's alignment phase on the server (Huang et al. 2024): a few proximal steps on refusals in every round."""

from __future__ import annotations

import torch

from benchmark.updates import Aggregate, RoundContext, Updates
from defenses.base import Defense, Knowledge, Objective, Stage, register

PROXIMAL = 1.0
"""Lisa's rho."""


@register(
    title="Lisa, server form",
    description=(
        "Averages as FedAvg does. Then the server takes a few steps on pairs of harmful instructions and refusals, "
        "while a proximal term pulls the model back to the average. All rounds together have the steps of one "
        "post-hoc repair."
    ),
    paper="Huang et al. 2024, arXiv 2405.18641",
    stages=(Stage.AGGREGATE,),
    knowledge=Knowledge.NONE,
    resources="aligned pairs; server-side fine-tuning in every round",
    asks_server=True,
)
class LisaServer(Defense):
    """Aggregate to w' - w with w' the result of K steps on L(w') + rho/2 ‖w' - (w + m)‖² from w + m, rho = 1.

    w is the broadcast adapter, m the sample-weighted mean of the updates, and L the mean token loss on the refusals
    that the server owns. Lisa lets one party alternate between alignment data and user data, and pulls each phase to
    the end of the other phase. In a federation the clients hold the user data, so this rule has the phase of the
    alignment only: the clients train as they do.

    *Steps.* Lisa takes 100 steps of alignment for 900 of user data. Here all rounds together take S steps, the suite's
    post-hoc steps, so that the rule costs as much as one post-hoc repair and the two can be compared. With R rounds, K
    is ⌊S / R⌋ or one more, spread evenly. In a round of no step the mean stays as it is. Rates, batch size and
    clipping are the suite's post-hoc ones. The proximal term is on from the first step; in the first step its gradient
    is zero. Lisa switches it on after a tenth of all steps, which K steps from the anchor do not need.

    *Rows.* Half of the pairs that the suite grants a post-hoc defense, all of them refusals.

    The client weights are those of the mean. If the training does not end in finite numbers, as after an update of
    huge numbers, the mean stays as it is. Condition: n ≥ 1.
    Source: Huang et al. 2024, arXiv 2405.18641, section 4; values of the released code.
    """

    def aggregate(self, updates: Updates, context: RoundContext) -> Aggregate:
        """Return the mean after the alignment steps, with the weights of the mean."""
        server, mean = context.server, super().aggregate(updates, context)
        steps = (context.index + 1) * server.steps // context.rounds - context.index * server.steps // context.rounds
        if not steps:
            return mean
        averaged = context.broadcast + mean.update
        aligned = server.finetune(
            averaged,
            server.owned_aligned(max(1, server.examples // 2)),
            objective=Objective(proximal=PROXIMAL, anchor=averaged),
            steps=steps,
        )
        if not torch.isfinite(aligned).all():
            return mean
        return Aggregate(aligned - context.broadcast, mean.weights)
