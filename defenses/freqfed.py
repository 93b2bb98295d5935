"""FreqFed (Fereidooni et al. 2024)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from benchmark.updates import AdapterLayout, Aggregate, RoundContext, Updates
from defenses._clusters import cosine_distances, majority_cluster
from defenses._columns import weighted_sum
from defenses.base import Defense, Knowledge, Stage, register, selection


@register(
    title="FreqFed",
    description=(
        "Reads each tensor of an update as a signal and computes its frequencies, of which it keeps the lower half. It "
        "clusters the clients by the directions of these low frequencies, keeps the cluster that holds more than half "
        "of the clients, and averages their updates equally."
    ),
    paper="Fereidooni et al. 2024, NDSS, arXiv 2312.04432",
    stages=(Stage.AGGREGATE,),
    knowledge=Knowledge.NONE,
)
class FreqFed(Defense):
    """Aggregate to the unweighted mean of the updates in the majority's cluster of low frequencies.

    1. Of every tensor of the layout, flattened to m numbers, F_i holds the first ⌈m / 2⌉ coefficients of the
       orthonormal discrete cosine transform (type II). F_i joins those of all tensors.
    2. HDBSCAN on the cosine distances 1 - cos(F_i, F_j) with min_cluster_size ⌊n / 2⌋ + 1, min_samples 1 and a single
       cluster allowed, which finds one cluster of more than half of the clients. It is kept.

    The paper's parameters of HDBSCAN are not known to us. The library's defaults (min_cluster_size 5, two clusters or
    none) call everybody noise in rounds of fewer than ten clients. So these are the parameters of FLAME, by the same
    group, as in some public implementations of FreqFed. Others take the library's defaults, a minimum of two clients,
    or a transform in two dimensions. Where the paper transforms the layers of a model, this rule transforms the tensors
    of the adapter's update. To read a factor's rows one after the other as one signal is a choice of this rule.

    The reported weights are 1 / |K| for each of the |K| kept clients. Sample counts are ignored. Memory grows with the
    largest tensor, not with d. Condition: n ≥ 1; with one or two updates all are kept.
    Source: Fereidooni et al. 2024, NDSS, arXiv 2312.04432.

    Of two numbers (a, b) the low half is the one coefficient (a + b) / √2. The sums are 3, 2 and -1, so the cosine
    distances are 0 between the first two and 2 to the third:

    >>> from defenses._examples import one_round
    >>> result = FreqFed().aggregate(*one_round([[1.0, 2.0], [2.0, 0.0], [3.0, -4.0]]))
    >>> result.update.tolist(), result.weights.tolist()
    ([1.5, 1.0], [0.5, 0.5, 0.0])
    """

    def aggregate(self, updates: Updates, context: RoundContext) -> Aggregate:
        """Return the mean of the kept updates, with equal weights on them."""
        del context
        products = _low_frequency_products(updates.matrix, updates.layout)
        weights = selection(majority_cluster(cosine_distances(products)), len(updates))
        return Aggregate(weighted_sum(updates.matrix, weights), weights)


def _low_frequency_products(matrix: Tensor, layout: AdapterLayout) -> Tensor:
    """Return the inner products (float64 ``[n, n]``) of the low frequencies of the rows of ``matrix`` ``[n, d]``."""
    count = len(matrix)
    products = torch.zeros(count, count, dtype=torch.float64)
    for part in matrix.split_with_sizes(list(layout.sizes), dim=1):
        low = torch.stack([_low_frequencies(row.double()) for row in part])
        products += low @ low.T
    return products


def _low_frequencies(signal: Tensor) -> Tensor:
    """Return the first ⌈m / 2⌉ coefficients of the orthonormal cosine transform (type II) of ``signal`` (``[m]``).

    The transform is a Fourier transform of the even places followed by the odd ones backwards, turned by a quarter of a
    period a coefficient (Makhoul 1980). A Fourier transform of real numbers ends at the low half, so nothing is lost.
    """
    size = len(signal)
    count = (size + 1) // 2
    spectrum = torch.fft.rfft(torch.cat([signal[::2], signal[1::2].flip(0)]))[:count]
    angles = torch.arange(count, dtype=torch.float64) * (math.pi / (2 * size))
    low: Tensor = (spectrum.real * angles.cos() + spectrum.imag * angles.sin()) * math.sqrt(2 / size)
    low[0] /= math.sqrt(2)
    return low
