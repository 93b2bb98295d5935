"""Min-Max: malicious clients send one update whose distances to theirs stay within the largest among theirs."""

from __future__ import annotations

from dataclasses import dataclass

from attacks._update_space import DIRECTIONS, Products, direction_of, mean_of, products_of, sent_by_all
from attacks.base import Attack, AttackerView, register
from benchmark.updates import Updates


@register(
    title="Min-Max",
    description="Malicious clients train on ordinary rows. All of them send the mean of their updates, moved along a "
    "fixed direction until its largest distance from an own update reaches the largest distance between two of them. "
    "By its distances it could be one of them. Untargeted: utility falls, and safety only as a side "
    "effect.",
    paper="Shejwalkar and Houmansadr 2021, NDSS",
    knowledge="the malicious clients' own updates",
)
@dataclass(frozen=True)
class MinMax(Attack):
    """Send mu + gamma·p from every malicious client [Shejwalkar and Houmansadr 2021, NDSS].

    mu is the mean of the malicious clients' updates x_i, and p is -mu / ‖mu‖ (``unit``), -sign(mu) (``sign``) or -sigma
    (``std``) with the sample standard deviation sigma of each coordinate. gamma is the largest number with

        max_i ‖mu + gamma·p - x_i‖ ≤ max_ij ‖x_i - x_j‖.

    The updates x_i are honest ones because these clients keep their ordinary rows. This is the partial-knowledge form:
    no update of an honest client is seen.

    The authors' code finds gamma by halving a step that begins at 10 and ends at 1e-5, so that its gamma is at most 20
    and exact to about 5e-5. Each condition is a quadratic inequality in gamma, whose larger root is taken here. It
    agrees with the search within that error, and stays exact where the search is too coarse: along -sign(mu), an
    adapter of millions of coordinates has a gamma of about the size of the last step.

    A single malicious client has no distances: gamma is 0, and it sends its update as trained.

    Attributes:
        direction: Name of p: ``unit``, ``sign`` or ``std``.
    """

    direction: str = "unit"

    def __post_init__(self) -> None:
        if self.direction not in DIRECTIONS:
            raise ValueError(f"direction is {self.direction!r}; it is one of {', '.join(DIRECTIONS)}")

    def craft(self, updates: Updates, view: AttackerView) -> Updates:
        """Return the same vector for all malicious clients; a single one sends its update as trained."""
        del view
        mean = mean_of(updates)
        direction = direction_of(self.direction, updates, mean)
        factor = largest_factor(products_of(updates, mean, direction))
        return sent_by_all(updates, mean + factor * direction)


def largest_factor(products: Products) -> float:
    """Return gamma; 0 where p is zero or the updates are equal.

    With the centred update c_i = x_i - mu and D the largest distance of two updates, condition i is
    ‖p‖²·gamma² - 2·gamma·(c_i · p) + ‖c_i‖² - D² ≤ 0. It holds at 0, because no update is farther from the mean than
    from the farthest update.
    """
    if products.direction == 0:
        return 0.0
    squares = products.centred.diagonal()
    longest = (squares[:, None] + squares[None, :] - 2 * products.centred).max()
    slack = (longest - squares).clamp(min=0)
    roots = products.along + (products.along.square() + products.direction * slack).sqrt()
    return max(0.0, float(roots.min()) / products.direction)
