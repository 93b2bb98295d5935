"""Reference row: FedAvg without the malicious clients, which only the truth allows."""

from __future__ import annotations

import torch

from benchmark.errors import FedSafetyError
from benchmark.updates import Aggregate, RoundContext, Updates
from defenses._columns import weighted_sum
from defenses.base import Defense, Knowledge, Stage, register


@register(
    title="Attackers removed",
    description=(
        "Is told who is malicious and averages the honest clients only, weighted by training rows. No real server can "
        "do that: it is the level a perfect detector would reach."
    ),
    stages=(Stage.AGGREGATE,),
    knowledge=Knowledge.TRUTH,
    ranked=False,
)
class AttackersRemoved(Defense):
    """Aggregate to Σ w_i x_i / Σ w_i over the honest participants, w_i their sample counts.

    Where all participants are malicious the update is zero, and so are all weights.

    >>> from defenses._examples import one_round
    >>> rows = [[1.0], [99.0], [5.0]]
    >>> told = one_round(rows, ids=["a", "b", "c"], counts=[3, 7, 1], malicious_ids=frozenset({"b"}))
    >>> result = AttackersRemoved().aggregate(*told)
    >>> result.update.tolist(), result.weights.tolist()
    ([2.0], [0.75, 0.0, 0.25])
    """

    def aggregate(self, updates: Updates, context: RoundContext) -> Aggregate:
        """Return the weighted mean of the honest updates.

        Raises:
            FedSafetyError: The context does not hold the malicious clients.
        """
        if context.malicious_ids is None:
            raise FedSafetyError(
                "attackers_removed needs the truth, but this round's context has malicious_ids = None; "
                "give it to defenses whose knowledge level is 'truth'"
            )
        honest = torch.tensor([client not in context.malicious_ids for client in updates.client_ids])
        counts = updates.sample_counts.double() * honest
        weights = counts / counts.sum() if bool(honest.any()) else counts
        return Aggregate(weighted_sum(updates.matrix, weights), weights)
