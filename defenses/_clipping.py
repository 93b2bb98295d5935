"""Steps of rules that clip norms: distances to a center, factors that shorten, Gaussian noise."""

from __future__ import annotations

import torch
from torch import Tensor

from defenses._columns import BLOCK, FLOAT32, blocks


def distances_to(matrix: Tensor, center: Tensor) -> Tensor:
    """Return the Euclidean distance of each row to ``center``, accumulated in float64 over blocks of columns.

    Args:
        matrix: Finite float32 tensor ``[n, d]``; left unchanged.
        center: Finite float32 tensor ``[d]``.

    Returns:
        Float64 tensor ``[n]``.
    """
    count, dimension = matrix.shape
    squares = torch.zeros(count, dtype=torch.float64)
    buffer = torch.empty(min(BLOCK, dimension), dtype=torch.float64)
    for columns in blocks(dimension):
        part = buffer[: columns.stop - columns.start]
        middle = center[columns].double()
        for index, row in enumerate(matrix):
            part.copy_(row[columns]).sub_(middle)
            squares[index] += torch.dot(part, part)
    return squares.sqrt()


def clip_factors(norms: Tensor, bound: Tensor) -> Tensor:
    """Return min(1, bound / norm) for each of the float64 ``norms`` ``[n]``; a zero norm has the factor 1."""
    return torch.where(norms > bound, bound / norms, 1.0)


def add_noise(update: Tensor, deviation: float, generator: torch.Generator) -> None:
    """Add independent Gaussian noise to every entry of ``update`` in place, stopping at the largest float.

    Args:
        update: Finite float32 tensor ``[d]``.
        deviation: Standard deviation of the noise.
        generator: Random stream of the noise.
    """
    # The entries are drawn block by block, so that the noise needs no second vector of d numbers.
    for columns in blocks(update.shape[0]):
        part = update[columns]
        noise = torch.randn(part.shape[0], generator=generator).double().mul_(deviation)
        part.copy_(noise.add_(part).clamp_(FLOAT32.min, FLOAT32.max))
