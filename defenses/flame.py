"""FLAME (Nguyen et al. 2022)."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmark.updates import Aggregate, RoundContext, Updates
from defenses._clipping import add_noise, clip_factors
from defenses._clusters import cosine_distances, majority_cluster
from defenses._columns import weighted_sum
from defenses._distances import gram, squared_norms
from defenses.base import Defense, Knowledge, Stage, register, selection

NOISE = 0.001
"""Standard deviation λ of the noise as a share of the norm bound S."""


@register(
    title="FLAME",
    description=(
        "Clusters the clients by the directions of their models and keeps the cluster that holds more than half of "
        "them. It shortens every kept update that is longer than the round's median update, averages the kept updates "
        "equally, and adds a little random noise to every number of the result."
    ),
    paper="Nguyen et al. 2022, USENIX Security, arXiv 2101.02281",
    stages=(Stage.AGGREGATE,),
    knowledge=Knowledge.NONE,
)
class Flame(Defense):
    """Aggregate to (1 / |K|) Σ_{i ∈ K} x_i min(1, S / ‖x_i‖) + N(0, (λS)² I), with K the majority's cluster.

    1. K: HDBSCAN on the cosine distances 1 - cos(w + x_i, w + x_j) between the local models, w the broadcast adapter,
       with min_cluster_size ⌊n / 2⌋ + 1, min_samples 1 and a single cluster allowed. At this size HDBSCAN finds exactly
       one cluster: the first group of more than half of the clients that becomes connected as a threshold rises.
    2. S is the median of the norms ‖x_1‖, …, ‖x_n‖ of all updates (mean of the two middle ones for even n).
    3. λ = 0.001, the value for language models of the baseline in github.com/dmqx/Safe-FedLLM. That code gives the
       matrix of distances to HDBSCAN as coordinates; here it gives the distances, as the paper has it.

    The noise holds for one coordinate, so the noise of d coordinates has the norm λ S √d: it equals S at d = 1 million.
    It comes from the defense's own stream. The reported weights are 1 / |K| for each kept client. Sample counts are
    ignored. Condition: n ≥ 1; with one or two updates all are kept. Source: Nguyen et al. 2022, USENIX Security,
    arXiv 2101.02281.

    With w = 0 the directions 0°, 10° and 90° give {0°, 10°}, and S = 1 halves the second update. The noise has the
    standard deviation 0.001:

    >>> from defenses._examples import one_round
    >>> result = Flame().aggregate(*one_round([[1.0, 0.0], [1.9696, 0.3473], [0.0, 1.0]]))
    >>> [round(value, 1) for value in result.update.tolist()], result.weights.tolist()
    ([1.0, 0.1], [0.5, 0.5, 0.0])
    """

    def aggregate(self, updates: Updates, context: RoundContext) -> Aggregate:
        """Return the noisy mean of the kept and clipped updates, with equal weights on the kept clients."""
        distances = cosine_distances(_model_products(updates.matrix, context.broadcast))
        weights = selection(majority_cluster(distances), len(updates))
        norms = squared_norms(updates.matrix.unbind()).sqrt()
        bound = torch.quantile(norms, 0.5)
        update = weighted_sum(updates.matrix, weights * clip_factors(norms, bound))
        add_noise(update, NOISE * float(bound), context.generator)
        return Aggregate(update, weights)


def _model_products(matrix: Tensor, broadcast: Tensor) -> Tensor:
    """Return the inner products ``[n, n]`` of the models w + x_i, from updates ``[n, d]`` and the broadcast ``[d]``."""
    # (w + x_i)(w + x_j) is a sum of products of rows that exist, so that the models need no memory.
    products = gram([*matrix.unbind(), broadcast])
    cross = products[:-1, -1]
    return products[:-1, :-1] + cross[:, None] + cross[None, :] + products[-1, -1]
