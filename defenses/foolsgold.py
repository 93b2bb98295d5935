"""FoolsGold (Fung et al. 2018), with the history of each client."""

from __future__ import annotations

from torch import Tensor

from benchmark.errors import NotApplicableError
from benchmark.updates import Aggregate, RoundContext, Updates
from defenses._columns import FLOAT32, weighted_sum
from defenses._foolsgold import cosines, trust_of
from defenses.base import Defense, Knowledge, Stage, register


@register(
    title="FoolsGold",
    description=(
        "Assumes that colluding clients pull the model in the same direction round after round, more alike than any "
        "honest clients are. It adds up every client's updates over all rounds it took part in and lowers the weight "
        "of clients whose sums point the same way. It needs no bound on their number, but on dissimilar honest clients "
        "it can put all weight on a single one."
    ),
    paper="Fung et al. 2018, arXiv 1808.04866",
    stages=(Stage.AGGREGATE,),
    knowledge=Knowledge.NONE,
    traits=("stateful_per_client",),
)
class FoolsGold(Defense):
    """Aggregate to Σ v_i x_i / Σ v_i over the round's participants, with v_i from the clients' cumulative updates.

    With H_i the sum of all updates of client id i so far, this round's included:

    1. c_ij = cos(H_i, H_j) for i ≠ j and c_ii = 0; a zero vector has cosine 0 with everything; m_i = max_j c_ij.
    2. Pardoning: where m_i < m_j, c_ij ← c_ij · m_i / m_j.
    3. v_i = clip(1 - max_j c_ij, 0, 1), divided by the largest of them; 1 becomes 0.99.
    4. v_i ← clip(ln(v_i / (1 - v_i)) + 0.5, 0, 1).

    Where all v_i are 0 the update is zero, and so are all weights. Sample counts are ignored. Condition: n ≥ 2; a
    single update that is left after others were rejected is returned as it is. The sums are kept as float32, one row of
    d numbers per client id, and stop at the largest float. Source: Fung et al. 2018, arXiv 1808.04866, algorithm 1.

    Two clients that agree exactly lose all their weight to the third:

    >>> from defenses._examples import one_round
    >>> result = FoolsGold().aggregate(*one_round([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0]]))
    >>> result.update.tolist(), result.weights.tolist()
    ([0.0, 3.0], [0.0, 0.0, 1.0])
    """

    def __init__(self) -> None:
        self._history: dict[str, Tensor] = {}

    def check_shape(self, participants: int, declared_malicious: int) -> None:
        """Refuse n < 2.

        Raises:
            NotApplicableError: A single update a round has none to be compared with.
        """
        del declared_malicious
        if participants < 2:
            raise NotApplicableError(
                f"foolsgold needs n >= 2 updates a round, but n = {participants}; let more clients take part"
            )

    def aggregate(self, updates: Updates, context: RoundContext) -> Aggregate:
        """Return the reweighted mean with its weights, and add the updates to their clients' history."""
        del context
        sums = [self._remember(*sent) for sent in zip(updates.client_ids, updates.matrix, strict=True)]
        trust = trust_of(cosines(sums))
        weights = trust / trust.sum() if bool(trust.any()) else trust
        return Aggregate(weighted_sum(updates.matrix, weights), weights)

    def _remember(self, client: str, update: Tensor) -> Tensor:
        """Add ``update`` (``[d]``) to the client's history and return the sum."""
        if client in self._history:
            self._history[client].add_(update).clamp_(FLOAT32.min, FLOAT32.max)
        else:
            self._history[client] = update.clone()
        return self._history[client]
