"""Steps of the attacks in update space: mean and spread of the malicious clients' updates, and one vector for all.

All of them take the partial-knowledge form of the literature: mu and sigma are the mean and the sample standard
deviation of the m updates of the malicious clients. The full-knowledge form takes the updates of all honest clients
instead. The malicious clients keep their ordinary rows, so that their updates are honest until
:meth:`attacks.base.Attack.craft` replaces them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from benchmark.updates import Updates

# The list of attacks is read without PyTorch, so the functions below use the methods of tensors only.
if TYPE_CHECKING:
    from torch import Tensor

DIRECTIONS: Final = ("unit", "sign", "std")
"""Names of the perturbations p: -mu / ‖mu‖, -sign(mu) and -sigma."""
_BLOCK: Final = 1 << 16
"""Coordinates that are in float64 at a time, so that a large adapter needs no float64 copy and a block fits a cache."""


def mean_of(updates: Updates) -> Tensor:
    """Return mu, the unweighted mean ``[d]`` of the updates."""
    return updates.matrix.mean(dim=0)


def spread_of(updates: Updates) -> Tensor:
    """Return sigma, the sample standard deviation (divisor m - 1) of each coordinate ``[d]``; zeros for one update."""
    mean = mean_of(updates)
    squares = mean.new_zeros(mean.shape)
    # Row by row, because a reduction over so few rows is slow and takes a copy of the matrix.
    for row in updates.matrix:
        squares += (row - mean).square()
    return (squares / max(1, len(updates) - 1)).sqrt()


def sent_by_all(updates: Updates, vector: Tensor) -> Updates:
    """Return ``updates`` with the same ``vector`` ``[d]`` in every row."""
    return replace(updates, matrix=vector.repeat(len(updates), 1))


def direction_of(name: str, updates: Updates, mean: Tensor) -> Tensor:
    """Return the perturbation p ``[d]`` of a name in :data:`DIRECTIONS`; zeros where mu or sigma is zero."""
    if name == "std":
        return -spread_of(updates)
    if name == "sign":
        return -mean.sign()
    length = float(mean.norm())
    return -mean / length if length else mean.new_zeros(mean.shape)


@dataclass(frozen=True)
class Products:
    """Inner products of the centred updates c_i = x_i - mu and the perturbation p, in float64.

    Attributes:
        centred: Tensor ``[m, m]``; entry i, j is c_i · c_j.
        along: Tensor ``[m]``; entry i is c_i · p.
        direction: The squared norm of p.
    """

    centred: Tensor
    along: Tensor
    direction: float


def products_of(updates: Updates, mean: Tensor, direction: Tensor) -> Products:
    """Return the inner products from which every distance between own updates and mu + gamma·p follows."""
    count = len(updates)
    products = updates.matrix.new_zeros(count, count).double()
    along = updates.matrix.new_zeros(count).double()
    square = 0.0
    for start in range(0, len(mean), _BLOCK):
        block = slice(start, start + _BLOCK)
        step = direction[block].double()
        centred = updates.matrix[:, block].double() - mean[block].double()
        products += centred @ centred.T
        along += centred @ step
        square += float(step @ step)
    return Products(products, along, square)
