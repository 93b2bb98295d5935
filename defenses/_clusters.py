"""Cosine distances between clients, and the cluster of their majority as HDBSCAN finds it (Campello et al. 2013)."""

from __future__ import annotations

import torch
from torch import Tensor

_SAME_DIRECTION = 1e-12
"""Cosine distances below this are 0: the difference is the rounding of the inner products."""


def cosine_distances(products: Tensor) -> Tensor:
    """Return 1 - cos for each pair; a zero vector has cosine 0 with every other vector.

    Args:
        products: Inner products of n vectors, float64 ``[n, n]``.

    Returns:
        Symmetric float64 tensor ``[n, n]`` with values from 0 to 2 and a zero diagonal.
    """
    lengths = products.diagonal().clamp(min=0).sqrt()
    lengths = torch.where(lengths > 0, lengths, 1.0)
    distances = (1 - products / lengths[:, None] / lengths[None, :]).clamp(0, 2)
    return torch.where(distances < _SAME_DIRECTION, 0.0, distances).fill_diagonal_(0)


def majority_cluster(distances: Tensor) -> Tensor:
    """Return the clients that HDBSCAN puts into a cluster of more than half of all clients.

    The parameters are min_cluster_size ⌊n / 2⌋ + 1, min_samples 1 and a single cluster allowed. At this size there is
    one cluster and never a second one, so no hierarchy is needed: the cluster is the first group of more than half of
    the clients that becomes connected when a threshold of distance rises from 0. min_samples 1 changes no distance,
    because no client is nearer to another one than to its nearest neighbour. There is always such a group.

    Args:
        distances: Symmetric float64 tensor ``[n, n]`` with a zero diagonal.

    Returns:
        Ascending indices, int64 ``[m]`` with m > n / 2.
    """
    thresholds = torch.tensor(sorted(set(distances.flatten().tolist())), dtype=torch.float64)
    low, high = 0, len(thresholds) - 1
    while low < high:
        middle = (low + high) // 2
        if 2 * len(_largest_group(distances <= thresholds[middle])) > len(distances):
            high = middle
        else:
            low = middle + 1
    return _largest_group(distances <= thresholds[low])


def _largest_group(adjacent: Tensor) -> Tensor:
    """Return the ascending members of the largest connected group of the graph ``adjacent`` (bool ``[n, n]``)."""
    steps = 1
    while steps < len(adjacent):
        # Twice as many steps reach what the reached clients reach.
        adjacent = adjacent.double() @ adjacent.double() > 0
        steps *= 2
    return adjacent[int(adjacent.sum(dim=1).argmax())].nonzero().squeeze(1)
