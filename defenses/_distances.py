"""Inner products and squared distances between updates, accumulated in float64 over blocks of columns.

Float64 makes squares of any float32 number finite and exact. The inner products are not centred: a single boosted
client would drag the centre away and spoil the distances between all the others.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from defenses._columns import BLOCK, blocks

_CANCELLATION = 1e-4
"""Below this share of the two squared norms a squared distance is summed directly from the differences."""


def gram(rows: Sequence[Tensor]) -> Tensor:
    """Return the inner products of ``rows`` (n float32 tensors ``[d]``) as a symmetric float64 tensor ``[n, n]``."""
    count, dimension = len(rows), rows[0].shape[0]
    products = torch.zeros(count, count, dtype=torch.float64)
    buffer = torch.empty(count, min(BLOCK, dimension), dtype=torch.float64)
    for columns in blocks(dimension):
        block = buffer[:, : columns.stop - columns.start]
        for target, row in zip(block, rows, strict=True):
            target.copy_(row[columns])
        for index in range(count):
            products[index, index:].addmv_(block[index:], block[index])
    return products.triu() + products.triu(1).T


def squared_norms(rows: Sequence[Tensor]) -> Tensor:
    """Return the squared Euclidean norm of each of the n float32 ``rows`` as a float64 tensor ``[n]``."""
    norms = torch.zeros(len(rows), dtype=torch.float64)
    buffer = torch.empty(BLOCK, dtype=torch.float64)
    for index, row in enumerate(rows):
        for columns in blocks(row.shape[0]):
            part = buffer[: columns.stop - columns.start].copy_(row[columns])
            norms[index] += torch.dot(part, part)
    return norms


def squared_distances(rows: Sequence[Tensor]) -> Tensor:
    """Return the squared Euclidean distances between ``rows`` (n float32 tensors ``[d]``).

    Equal rows have distance 0 and bitwise equal distances to all others, so that ties between them are exact.

    Returns:
        Symmetric float64 tensor ``[n, n]`` with a zero diagonal.
    """
    products = gram(rows)
    norms = products.diagonal()
    total = norms[:, None] + norms[None, :]
    distances = (total - 2 * products).fill_diagonal_(0)
    for pair in (distances < _CANCELLATION * total).triu(1).nonzero():
        left, right = (int(index) for index in pair)
        direct = _squared_distance(rows[left], rows[right])
        distances[left, right] = distances[right, left] = direct
    for left, right in (distances == 0).triu(1).nonzero().tolist():
        distances[right, :] = distances[left, :]
        distances[:, right] = distances[:, left]
    return distances


def _squared_distance(left: Tensor, right: Tensor) -> float:
    result = 0.0
    buffer = torch.empty(BLOCK, dtype=torch.float64)
    for columns in blocks(left.shape[0]):
        difference = buffer[: columns.stop - columns.start].copy_(left[columns]).sub_(right[columns])
        result += float(torch.dot(difference, difference))
    return result
