"""LASA, layer-adaptive sparsified aggregation (Xu et al. 2025)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from benchmark.errors import NotApplicableError
from benchmark.updates import AdapterLayout, Aggregate, RoundContext, Updates
from defenses._clipping import clip_factors
from defenses._columns import blocks, weighted_sum
from defenses._distances import squared_norms
from defenses.base import Defense, Knowledge, Stage, register

KEPT_PERCENT = 70
"""Share of its largest entries that each client keeps."""
RADIUS = 1.0
"""Largest distance from the median, in standard deviations, of a kept client: λ_n for norms and λ_s for signs."""
_WIDTH = 4_096
"""Columns in a block."""


@register(
    title="LASA",
    description=(
        "Shortens long updates to the round's median norm and keeps only the largest 70 % of each client's numbers. In "
        "every tensor of the adapter it then averages only the clients whose norm and whose balance of positive and "
        "negative numbers are near those of the median client."
    ),
    paper="Xu et al. 2025, WACV, arXiv 2409.01435",
    stages=(Stage.AGGREGATE,),
    knowledge=Knowledge.NONE,
)
class Lasa(Defense):
    """Aggregate each tensor to the unweighted mean of the clipped and sparsified updates of its near clients.

    1. x_i ← x_i · min(1, M / ‖x_i‖), M the median of the norms.
    2. Of each client's d entries only the k = ⌊0.7 d⌋ of largest magnitude are kept, and the others become 0. Entries
       as large as the k-th are kept, too.
    3. Per tensor of the layout: a_i is the norm, and b_i = (number of positive - number of negative) / (number of
       nonzero entries). K holds the clients with |a_i - median(a)| < λ_n std(a) and |b_i - median(b)| < λ_s std(b),
       where std is the population's standard deviation. If K is empty, it holds all clients.
    4. The tensor's aggregate is the mean of the sparsified x_i over K.

    λ_n = λ_s = 1 and 70 % are the defaults of the authors' code. Its sign score ½ (1 + 0.7 b_i) gives the same K,
    because a linear map changes no distance in standard deviations. Medians of even counts average the two middle
    values. A tensor without a nonzero entry has b_i = 0. Sample counts are ignored.

    The reported weight of a client is the mean of its weights 1 / |K| or 0 over all d entries. Condition: n ≥ 3,
    because two values are always one standard deviation from their median; one or two updates that are left after
    others were rejected all count.
    Source: Xu, Zhang and Hu 2025, WACV, arXiv 2409.01435, and github.com/JiiahaoXU/LASA, algorithms/defense/lasa.py.

    Two numbers are one tensor with k = 1. The norms 5, 5 and 10 give M = 5, so that all norms are 4 after the second
    step and K is empty by their norms:

    >>> from defenses._examples import one_round
    >>> result = Lasa().aggregate(*one_round([[3.0, 4.0], [-3.0, 4.0], [6.0, -8.0]]))
    >>> [round(value, 4) for value in result.update.tolist() + result.weights.tolist()]
    [0.0, 1.3333, 0.3333, 0.3333, 0.3333]
    """

    def check_shape(self, participants: int, declared_malicious: int) -> None:
        """Refuse n < 3.

        Raises:
            NotApplicableError: Two values are always one standard deviation from their median.
        """
        del declared_malicious
        if participants < 3:
            raise NotApplicableError(
                f"lasa needs n >= 3 updates a round, but n = {participants}; let more clients take part"
            )

    def aggregate(self, updates: Updates, context: RoundContext) -> Aggregate:
        """Return the aggregate of each tensor, with the mean client weights over all entries."""
        del context
        matrix, layout = updates.matrix, updates.layout
        norms = squared_norms(matrix.unbind()).sqrt()
        factors = clip_factors(norms, torch.quantile(norms, 0.5))
        update = torch.empty(matrix.shape[1])
        # The magnitudes of one client at a time lie in the memory of the result, which is not needed yet.
        thresholds = _thresholds(matrix, update)
        total = torch.zeros(len(updates), dtype=torch.float64)
        for tensor in _tensors(layout):
            weights = _tensor_weights(matrix[:, tensor], thresholds, factors)
            for columns in blocks(tensor.stop - tensor.start, _WIDTH):
                sparse = _sparse(matrix[:, tensor][:, columns], thresholds)
                update[tensor][columns] = weighted_sum(sparse, weights * factors)
            total += weights * (tensor.stop - tensor.start)
        return Aggregate(update, total / matrix.shape[1])


def _tensors(layout: AdapterLayout) -> Iterator[slice]:
    """Yield the columns of each tensor of ``layout``."""
    start = 0
    for size in layout.sizes:
        yield slice(start, start + size)
        start += size


def _thresholds(matrix: Tensor, scratch: Tensor) -> Tensor:
    """Return the magnitude of the k-th largest entry of each row of ``matrix`` (``[n, d]``), as ``[n]``.

    Args:
        matrix: Finite float32 tensor ``[n, d]``; left unchanged.
        scratch: Float32 tensor ``[d]`` that is overwritten.
    """
    dimension = matrix.shape[1]
    kept = max(1, dimension * KEPT_PERCENT // 100)
    thresholds = torch.empty(len(matrix))
    for index, row in enumerate(matrix):
        # NumPy's partition works in place, where torch.kthvalue needs several times the memory of the row.
        magnitudes = torch.abs(row, out=scratch).numpy()
        magnitudes.partition(dimension - kept)
        thresholds[index] = float(magnitudes[dimension - kept])
    return thresholds


def _sparse(block: Tensor, thresholds: Tensor) -> Tensor:
    """Return ``block`` (``[n, w]``) with zeros in place of the entries below their row's threshold."""
    return torch.where(block.abs() >= thresholds[:, None], block, 0.0)


def _tensor_weights(values: Tensor, thresholds: Tensor, factors: Tensor) -> Tensor:
    """Return the client weights (float64 ``[n]``) of one tensor ``[n, m]`` of the updates: 1 / |K| or 0."""
    count = len(values)
    squares, signs, nonzero = torch.zeros(3, count, dtype=torch.float64)
    for columns in blocks(values.shape[1], _WIDTH):
        sparse = _sparse(values[:, columns], thresholds)
        squares += sparse.double().square().sum(dim=1)
        signs += sparse.sign().sum(dim=1)
        nonzero += (sparse != 0).sum(dim=1)
    near = _near_median(squares.sqrt() * factors) & _near_median(signs / nonzero.clamp(min=1))
    if count < 3 or not bool(near.any()):
        near = torch.ones(count, dtype=torch.bool)
    return near.double() / near.sum()


def _near_median(values: Tensor) -> Tensor:
    """Return which of the ``values`` (``[n]``) lie less than one standard deviation from their median."""
    return (values - torch.quantile(values, 0.5)).abs() < RADIUS * values.std(correction=0)
