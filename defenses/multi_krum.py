"""Multi-Krum (Blanchard et al. 2017)."""

from __future__ import annotations

from benchmark.updates import Aggregate, RoundContext, Updates
from defenses._columns import weighted_sum
from defenses._krum import admissible_bound, check_krum_shape, krum_scores, lowest
from defenses.base import Defense, Knowledge, Stage, register, selection


@register(
    title="Multi-Krum",
    description=(
        "Scores every update as Krum does, by its squared distances to the n - f - 2 nearest others, and averages the "
        "n - f - 2 updates with the lowest scores, each counted equally. It gives up less honest work than Krum."
    ),
    paper="Blanchard et al. 2017, arXiv 1703.02757",
    stages=(Stage.AGGREGATE,),
    knowledge=Knowledge.DECLARED_BOUND,
)
class MultiKrum(Defense):
    """Aggregate to the unweighted mean of the m = n - f - 2 updates of lowest Krum score, scored once.

    Ties go to the earlier client id; sample counts are ignored. Condition: n ≥ 2f + 3. In a round that a rejected
    update made smaller than planned, f is lowered to the largest bound that meets it.
    Source: Blanchard et al. 2017, arXiv 1703.02757, section 4.

    On the line 0, 1, 3, 9, 50 with f = 1 the scores are 10, 5, 13, 100 and 3890, and m = 2:

    >>> from defenses._examples import one_round
    >>> result = MultiKrum().aggregate(*one_round([[0.0], [1.0], [3.0], [9.0], [50.0]], malicious=1))
    >>> result.update.tolist(), result.weights.tolist()
    ([0.5], [0.5, 0.5, 0.0, 0.0, 0.0])
    """

    def check_shape(self, participants: int, declared_malicious: int) -> None:
        """Refuse n < 2f + 3.

        Raises:
            NotApplicableError: Fewer than 2f + 3 updates a round.
        """
        check_krum_shape("multi_krum", participants, declared_malicious)

    def degenerate_as(self, participants: int, declared_malicious: int) -> str | None:
        """Return ``"krum"`` where only one update is kept; within the condition that is n = 3, f = 0."""
        return "krum" if (participants, declared_malicious) == (3, 0) else None

    def aggregate(self, updates: Updates, context: RoundContext) -> Aggregate:
        """Return the mean of the kept updates, with equal weights on them."""
        participants = len(updates)
        count = max(1, participants - admissible_bound(participants, context.declared_malicious) - 2)
        weights = selection(lowest(krum_scores(updates.matrix, count), count), participants)
        return Aggregate(weighted_sum(updates.matrix, weights), weights)
