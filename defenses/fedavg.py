"""FedAvg (McMahan et al. 2017): the undefended baseline."""

from __future__ import annotations

from defenses.base import Defense, Knowledge, Stage, register


@register(
    title="FedAvg",
    description=(
        "The usual federated average: every client's update counts in proportion to its number of training rows. "
        "It defends against nothing and is the baseline that attacks and defenses are measured against."
    ),
    paper="McMahan et al. 2017, arXiv 1602.05629",
    stages=(Stage.AGGREGATE,),
    knowledge=Knowledge.NONE,
)
class FedAvg(Defense):
    """Aggregate to Σ w_i x_i / Σ w_i, with w_i the sample count of client i; defined for every n ≥ 1.

    Source: McMahan et al. 2017, arXiv 1602.05629, algorithm 1. All hooks are the defaults of :class:`Defense`.

    >>> from defenses._examples import one_round
    >>> result = FedAvg().aggregate(*one_round([[1.0, 0.0], [5.0, 4.0]], counts=[3, 1]))
    >>> result.update.tolist(), result.weights.tolist()
    ([2.0, 1.0], [0.75, 0.25])
    """
