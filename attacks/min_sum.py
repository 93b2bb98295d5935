"""Min-Sum: malicious clients send an update whose squared distances from theirs add up to no more than an own one's."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from attacks._update_space import DIRECTIONS, Products, direction_of, mean_of, products_of, sent_by_all
from attacks.base import Attack, AttackerView, register
from benchmark.updates import Updates

BOUNDS: Final = ("minimum", "maximum")
"""Whose sum of squared distances is the bound: that of the most central update, or of the most remote one."""


@register(
    title="Min-Sum",
    description="Malicious clients train on ordinary rows. All of them send the mean of their updates, moved along a "
    "fixed direction until the sum of its squared distances from their updates reaches that of one of these. This is "
    "closer to honest updates than Min-Max. Untargeted: utility falls, and safety only as a side effect.",
    paper="Shejwalkar and Houmansadr 2021, NDSS",
    knowledge="the malicious clients' own updates",
)
@dataclass(frozen=True)
class MinSum(Attack):
    """Send mu + gamma·p from every malicious client [Shejwalkar and Houmansadr 2021, NDSS].

    mu is the mean of the malicious clients' updates x_i, and p is -mu / ‖mu‖ (``unit``), -sign(mu) (``sign``) or -sigma
    (``std``) with the sample standard deviation sigma of each coordinate. gamma is the largest number with

        sum_i ‖mu + gamma·p - x_i‖² ≤ B,  B = min_i S_i or max_i S_i,  S_i = sum_j ‖x_i - x_j‖².

    The authors' notebooks take the minimum, and other implementations take the maximum. The updates x_i are honest ones
    because these clients keep their ordinary rows. This is the partial-knowledge form: no update of an honest client is
    seen.

    The authors' code finds gamma by halving a step down to 1e-5. Because the centred updates add up to zero, the
    condition reduces to gamma·‖p‖ ≤ ‖x_i - mu‖ for the update i that is nearest to the mean, or farthest from it. This
    bound is taken here; it agrees with the search within about 5e-5.

    A single malicious client has no distances: gamma is 0, and it sends its update as trained.

    Attributes:
        direction: Name of p: ``unit``, ``sign`` or ``std``.
        bound: ``minimum`` or ``maximum``.
    """

    direction: str = "unit"
    bound: str = "minimum"

    def __post_init__(self) -> None:
        for name, choices in (("direction", DIRECTIONS), ("bound", BOUNDS)):
            value = getattr(self, name)
            if value not in choices:
                raise ValueError(f"{name} is {value!r}; it is one of {', '.join(choices)}")

    def craft(self, updates: Updates, view: AttackerView) -> Updates:
        """Return the same vector for all malicious clients; a single one sends its update as trained."""
        del view
        mean = mean_of(updates)
        direction = direction_of(self.direction, updates, mean)
        factor = largest_factor(products_of(updates, mean, direction), self.bound)
        return sent_by_all(updates, mean + factor * direction)


def largest_factor(products: Products, bound: str) -> float:
    """Return gamma for a bound in :data:`BOUNDS`; 0 where p is zero or the updates are equal."""
    if products.direction == 0:
        return 0.0
    squares = products.centred.diagonal()
    square = squares.min() if bound == "minimum" else squares.max()
    return math.sqrt(float(square) / products.direction)
