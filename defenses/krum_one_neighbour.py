"""Krum for rounds below its condition: at least one neighbour is counted."""

from __future__ import annotations

from benchmark.errors import NotApplicableError
from benchmark.updates import Aggregate, RoundContext, Updates
from defenses._krum import krum_scores, lowest
from defenses.base import Defense, Knowledge, Stage, register, selection


@register(
    title="Krum, at least one neighbour",
    description=(
        "Krum outside its own condition: where n - f - 2 is below one, as at three clients a round with one declared "
        "malicious, each update is scored by its single nearest neighbour. Two colluding clients that send nearly "
        "equal updates always win then, so the rule is offered only to scenarios that reproduce a published shape."
    ),
    paper="Blanchard et al. 2017, arXiv 1703.02757; shape of Ye et al. 2025, arXiv 2406.10630",
    stages=(Stage.AGGREGATE,),
    knowledge=Knowledge.DECLARED_BOUND,
    variant_of="krum",
)
class KrumOneNeighbour(Defense):
    """Aggregate to x_k, k = argmin_i Σ ‖x_i - x_j‖² over the max(1, n - f - 2) updates x_j nearest to x_i, j ≠ i.

    Ties go to the earlier client id; sample counts are ignored. Condition: n ≥ 2; a single update that is left after
    others were rejected is returned as it is. No guarantee of Blanchard et al. 2017 holds below n = 2f + 3.

    On the line 0, 4, 5 with f = 1 the nearest neighbours are 16, 1 and 1 away (squared); the tie goes to the second:

    >>> from defenses._examples import one_round
    >>> result = KrumOneNeighbour().aggregate(*one_round([[0.0], [4.0], [5.0]], malicious=1))
    >>> result.update.tolist(), result.weights.tolist()
    ([4.0], [0.0, 1.0, 0.0])
    """

    def check_shape(self, participants: int, declared_malicious: int) -> None:
        """Refuse n < 2.

        Raises:
            NotApplicableError: A single update a round has no neighbour.
        """
        del declared_malicious
        if participants < 2:
            raise NotApplicableError(
                f"krum_one_neighbour needs n >= 2 updates a round, but n = {participants}; let more clients take part"
            )

    def degenerate_as(self, participants: int, declared_malicious: int) -> str | None:
        """Return ``"krum"`` wherever Krum's own condition n ≥ 2f + 3 holds: both count n - f - 2 neighbours there."""
        return "krum" if participants >= 2 * declared_malicious + 3 else None

    def aggregate(self, updates: Updates, context: RoundContext) -> Aggregate:
        """Return the winner's update, with weight 1 on the winner."""
        participants = len(updates)
        neighbours = max(1, participants - context.declared_malicious - 2)
        winner = lowest(krum_scores(updates.matrix, neighbours), 1)
        return Aggregate(updates.matrix[int(winner)].clone(), selection(winner, participants))
