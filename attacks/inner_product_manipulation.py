"""Inner Product Manipulation: malicious clients send the mean of their updates, reversed and scaled."""

from __future__ import annotations

import math
from dataclasses import dataclass

from attacks._update_space import mean_of, sent_by_all
from attacks.base import Attack, AttackerView, register
from benchmark.updates import Updates


@register(
    title="Inner Product Manipulation",
    description="Malicious clients train on ordinary rows. All of them send the mean of their updates, reversed and "
    "times a factor, so that the aggregate and the honest direction may point apart. A small factor hides among honest "
    "updates, a large one outweighs an average. Untargeted: utility falls, and safety only as a side effect.",
    paper="Xie et al. 2019, arXiv 1903.03936",
    knowledge="the malicious clients' own updates",
)
@dataclass(frozen=True)
class InnerProductManipulation(Attack):
    """Send -ε·mu from every malicious client [Xie et al. 2019, UAI, arXiv 1903.03936].

    mu is the mean of the malicious clients' updates, which are honest ones because these clients keep their ordinary
    rows. This is the partial-knowledge form: no update of an honest client is seen. A small ε such as 0.1 is hard for
    Krum and a large ε such as 2.0, the default of ByzFL's ``InnerProductManipulation``, for rules like the median.

    A single malicious client sends its own update times -ε: with ε = 1 the attack is a sign flip.

    Attributes:
        epsilon: Factor ε, positive and finite.
    """

    epsilon: float = 0.1

    def __post_init__(self) -> None:
        if not (math.isfinite(self.epsilon) and self.epsilon > 0):
            raise ValueError(f"epsilon is {self.epsilon}; it is a positive, finite factor")

    def craft(self, updates: Updates, view: AttackerView) -> Updates:
        """Return the reversed mean for all malicious clients."""
        del view
        return sent_by_all(updates, -self.epsilon * mean_of(updates))
