"""FoolsGold on the current round alone, as the released code of the seed paper runs it."""

from __future__ import annotations

from benchmark.errors import NotApplicableError
from benchmark.updates import Aggregate, RoundContext, Updates
from defenses._columns import weighted_sum
from defenses._foolsgold import cosines, trust_of
from defenses.base import Defense, Knowledge, Stage, register


@register(
    title="FoolsGold without history",
    description=(
        "The rule that the seed paper's tables call FoolsGold. Weights come from the likeness of this round's updates "
        "only, not of what clients sent before, and the weighted updates are divided by the number of clients that "
        "have any weight, so that distrust shrinks the step as well."
    ),
    paper="Ye et al. 2025, arXiv 2406.10630 (released code); after Fung et al. 2018, arXiv 1808.04866",
    stages=(Stage.AGGREGATE,),
    knowledge=Knowledge.NONE,
    variant_of="foolsgold",
)
class FoolsGoldNoHistory(Defense):
    """Aggregate to Σ v_i x_i / #{i : v_i > 0}, with FoolsGold's v_i from the round's own updates.

    v_i is computed as by ``foolsgold`` (cosines, pardoning, division by the largest, 1 → 0.99, logit + 0.5, clip to
    [0, 1]) with x_i in the place of the cumulative sum. Where all v_i are 0 the update is zero; the released code
    divides by zero there. Sample counts are ignored. Condition: n ≥ 2; a single update that is left after others were
    rejected is returned as it is. Reported weights are the v_i divided by their sum.
    Source: repository 19dx/FedLLM-Attack at bd1c8ee, federated_learning/fed_global.py.

    Two clients that agree exactly lose all their weight to the third, in a later round as in the first:

    >>> from defenses._examples import one_round
    >>> result = FoolsGoldNoHistory().aggregate(*one_round([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0]]))
    >>> result.update.tolist(), result.weights.tolist()
    ([0.0, 3.0], [0.0, 0.0, 1.0])
    """

    def check_shape(self, participants: int, declared_malicious: int) -> None:
        """Refuse n < 2.

        Raises:
            NotApplicableError: A single update a round has none to be compared with.
        """
        del declared_malicious
        if participants < 2:
            raise NotApplicableError(
                f"foolsgold_no_history needs n >= 2 updates a round, but n = {participants}; let more clients take part"
            )

    def aggregate(self, updates: Updates, context: RoundContext) -> Aggregate:
        """Return the reweighted updates over the number of trusted clients, with the normalised weights."""
        del context
        trust = trust_of(cosines(list(updates.matrix)))
        trusted = int(trust.count_nonzero())
        if not trusted:
            return Aggregate(updates.matrix.new_zeros(updates.matrix.shape[1]), trust)
        return Aggregate(weighted_sum(updates.matrix, trust / trusted), trust / trust.sum())
