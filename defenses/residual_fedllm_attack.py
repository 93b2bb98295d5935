"""Residual-based reweighting with the confidence threshold of the seed paper's released code."""

from __future__ import annotations

from defenses.base import Knowledge, Stage, register
from defenses.residual import Residual


@register(
    title="Residual-based reweighting, as in FedLLM-Attack",
    description=(
        "Residual-based reweighting with the threshold of the seed paper's released code: values are moved onto the "
        "fitted line only where their confidence is below 0.05, half of the original's 0.1."
    ),
    paper="Ye et al. 2025, arXiv 2406.10630 (released code); after Fu et al. 2019, arXiv 1912.11464",
    stages=(Stage.AGGREGATE,),
    knowledge=Knowledge.NONE,
    variant_of="residual",
)
class ResidualFedllmAttack(Residual):
    r"""Aggregate as ``residual`` does, Σ W_i y'_i, with y'_i = line_i where c_i < 0.05, else y_i.

    Lines, confidences c_i and client weights W_i are those of ``residual``; the threshold decides only which values are
    moved. Condition: n ≥ 3; one or two updates that are left after others were rejected are averaged.
    Source: repository 19dx/FedLLM-Attack at bd1c8ee, federated_learning/fed_global.py, which runs on whole models; for
    updates residuals and weights are the same.

    As for ``residual`` the value that is far off the line is moved to 3 and loses its weight:

    >>> from defenses._examples import one_round
    >>> result = ResidualFedllmAttack().aggregate(*one_round([[0.0], [1.0], [2.0], [9.0]]))
    >>> [round(value, 4) for value in result.update.tolist() + result.weights.tolist()]
    [1.0, 0.3333, 0.3333, 0.3333, 0.0]
    """

    threshold = 0.05

    def degenerate_as(self, participants: int, declared_malicious: int) -> str | None:
        """Return ``"fedavg"`` for three clients that report equal counts.

        No residual of three values exceeds twice the mean of the two largest, which is within the band of full
        confidence: nothing is moved and nobody is distinguished. In the released code the weights are rounding noise.
        """
        del declared_malicious
        return "fedavg" if participants == 3 else None
