"""Krum (Blanchard et al. 2017)."""

from __future__ import annotations

from benchmark.updates import Aggregate, RoundContext, Updates
from defenses._krum import admissible_bound, check_krum_shape, krum_scores, lowest
from defenses.base import Defense, Knowledge, Stage, register, selection


@register(
    title="Krum",
    description=(
        "Keeps the one update that lies closest to its nearest neighbours: each update is scored by the sum of its "
        "squared distances to the n - f - 2 nearest other updates, and the lowest score wins. All other clients' work "
        "of the round is discarded."
    ),
    paper="Blanchard et al. 2017, arXiv 1703.02757",
    stages=(Stage.AGGREGATE,),
    knowledge=Knowledge.DECLARED_BOUND,
)
class Krum(Defense):
    """Aggregate to x_k, k = argmin_i Σ ‖x_i - x_j‖² over the n - f - 2 updates x_j nearest to x_i, j ≠ i.

    Ties go to the earlier client id; sample counts are ignored. Condition: n ≥ 2f + 3. In a round that a rejected
    update made smaller than planned, f is lowered to the largest bound that meets it.
    Source: Blanchard et al. 2017, arXiv 1703.02757, section 4.

    On the line 0, 1, 3, 9, 50 with f = 1 the sums over two neighbours are 10, 5, 13, 100 and 3890:

    >>> from defenses._examples import one_round
    >>> result = Krum().aggregate(*one_round([[0.0], [1.0], [3.0], [9.0], [50.0]], malicious=1))
    >>> result.update.tolist(), result.weights.tolist()
    ([1.0], [0.0, 1.0, 0.0, 0.0, 0.0])
    """

    def check_shape(self, participants: int, declared_malicious: int) -> None:
        """Refuse n < 2f + 3.

        Raises:
            NotApplicableError: Fewer than 2f + 3 updates a round.
        """
        check_krum_shape("krum", participants, declared_malicious)

    def aggregate(self, updates: Updates, context: RoundContext) -> Aggregate:
        """Return the winner's update, with weight 1 on the winner."""
        participants = len(updates)
        malicious = admissible_bound(participants, context.declared_malicious)
        winner = lowest(krum_scores(updates.matrix, max(1, participants - malicious - 2)), 1)
        return Aggregate(updates.matrix[int(winner)].clone(), selection(winner, participants))
