"""Geometric median, robust federated aggregation (Pillutla et al. 2019)."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmark.updates import Aggregate, RoundContext, Updates
from defenses._columns import weighted_sum
from defenses._distances import squared_distances
from defenses.base import Defense, Knowledge, Stage, register

ITERATIONS = 4
"""Most Weiszfeld steps of a round."""
SMOOTHING = 1e-5
"""Smallest distance ε that a step divides by."""
TOLERANCE = 1e-6
"""Relative change of the objective below which the steps end."""


@register(
    title="Geometric median",
    description=(
        "Looks for the point with the least sum of distances to all updates. It starts from the average weighted by "
        "training rows and improves it in at most four steps, each of which lowers the weight of updates that lie far "
        "away. A minority cannot drag this point as far as it can drag an average."
    ),
    paper="Pillutla et al. 2019, arXiv 1912.13445",
    stages=(Stage.AGGREGATE,),
    knowledge=Knowledge.NONE,
)
class GeometricMedian(Defense):
    """Aggregate to Σ w_i x_i, with w from the smoothed Weiszfeld algorithm for min_v Σ s_i ‖x_i - v‖.

    s_i is the client's share of the reported sample counts. The start is w = s. A step computes v = Σ w_i x_i and sets
    w_i ∝ s_i / max(ε, ‖x_i - v‖). There are at most 4 steps, ε = 1e-5, and the steps end early once the objective
    changes by less than 1e-6 of itself. These values and the start are those of the authors' code. A client that
    reports too many rows gains weight, as in the source.

    The distances to v follow from the distances between updates: ‖x_i - v‖² = Σ_j w_j D_ij - ½ Σ_jk w_j w_k D_jk with
    D_ij = ‖x_i - x_j‖². So a round reads the updates twice, however many steps it takes. Condition: n ≥ 1.
    Source: Pillutla et al. 2019, arXiv 1912.13445, and github.com/krishnap25/RFA, models/model.py.

    On the line 0, 0, 3 the start is v = 1 with the distances 1, 1 and 2. The first step gives the weights 0.4, 0.4 and
    0.2, so v = 0.6. The next steps give v = 1/3, 3/17 and 1/11:

    >>> from defenses._examples import one_round
    >>> result = GeometricMedian().aggregate(*one_round([[0.0], [0.0], [3.0]]))
    >>> round(float(result.update) * 11, 4), [round(weight * 33, 4) for weight in result.weights.tolist()]
    (1.0, [16.0, 16.0, 1.0])
    """

    def degenerate_as(self, participants: int, declared_malicious: int) -> str | None:
        """Return ``"fedavg"`` for up to two clients that report equal counts: the mean is equally far from both."""
        del declared_malicious
        return "fedavg" if participants <= 2 else None

    def aggregate(self, updates: Updates, context: RoundContext) -> Aggregate:
        """Return the weighted mean after the last step, with its weights."""
        del context
        shares = updates.sample_counts.double() / updates.sample_counts.sum()
        weights = weiszfeld_weights(squared_distances(updates.matrix.unbind()), shares)
        return Aggregate(weighted_sum(updates.matrix, weights), weights)


def weiszfeld_weights(
    between: Tensor,
    shares: Tensor,
    *,
    iterations: int = ITERATIONS,
    smoothing: float = SMOOTHING,
    tolerance: float = TOLERANCE,
) -> Tensor:
    """Return the weights of the mean that the smoothed Weiszfeld algorithm ends at.

    Args:
        between: Squared distances between the points, float64 ``[n, n]``.
        shares: Weights s of the objective, float64 ``[n]`` with sum 1. They are also the start.
        iterations: Most steps.
        smoothing: Smallest distance that a step divides by.
        tolerance: Relative change of the objective below which the steps end.

    Returns:
        Float64 tensor ``[n]`` with sum 1.
    """
    weights = shares
    distances = _distances_to_mean(between, weights)
    objective = float(shares @ distances)
    for _ in range(iterations):
        weights = shares / distances.clamp(min=smoothing)
        weights = weights / weights.sum()
        distances = _distances_to_mean(between, weights)
        previous, objective = objective, float(shares @ distances)
        if abs(previous - objective) < tolerance * objective:
            break
    return weights


def _distances_to_mean(between: Tensor, weights: Tensor) -> Tensor:
    """Return each point's distance ``[n]`` to the mean with ``weights``, from squared distances ``[n, n]``."""
    sums = between @ weights
    return torch.sqrt((sums - 0.5 * (weights @ sums)).clamp(min=0))
