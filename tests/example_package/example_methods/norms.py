"""What the package's methods share."""

from __future__ import annotations

from torch import Tensor


def smallest(matrix: Tensor, count: int) -> Tensor:
    """Return the indices (int64, ``[count]``) of the rows of ``matrix`` (``[n, d]``) with the smallest norms."""
    return matrix.norm(dim=1).argsort(stable=True)[:count]
