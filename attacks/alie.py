"""A Little Is Enough: malicious clients send the mean of their updates, moved by a few standard deviations."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

from attacks._update_space import mean_of, sent_by_all, spread_of
from attacks.base import Attack, AttackerView, register
from benchmark.updates import Updates

FORMULA: Final = "formula"
"""Value of ``z`` that takes z from the numbers of clients."""
FIXED: Final = 1.5
"""The z of ByzFL."""


@register(
    title="A Little Is Enough",
    description="Malicious clients train on ordinary rows. All of them send the mean of their updates minus z standard "
    "deviations in every coordinate, which stays within the spread of honest updates. Untargeted: utility falls, and "
    "safety only as a side effect. Without honest updates the attackers estimate mean and deviation from their own.",
    paper="Baruch et al. 2019, arXiv 1902.06156",
    knowledge="the malicious clients' own updates, and for the formula the number of participants",
)
@dataclass(frozen=True)
class Alie(Attack):
    """Send mu - z·sigma from every malicious client [Baruch et al. 2019, NeurIPS, arXiv 1902.06156].

    mu and sigma are the mean and the sample standard deviation of each coordinate over the m malicious clients'
    updates, which are honest ones because these clients keep their ordinary rows. This is the partial-knowledge form:
    no update of an honest client is seen. ByzFL's ``ALittleIsEnough`` sends mu + τ·sigma with τ = 1.5 and the same
    divisor m - 1, so that ``z=-1.5`` has its sign.

    The formula of the paper for n participants is z = Φ⁻¹((n - m - s)/(n - m)) with s = ⌊n/2 + 1⌋ - m, the number of
    honest clients that a majority needs. It is small for few clients: 0.180 at n = 10, m = 3, and 0 at n = 10, m = 2,
    where every malicious client sends mu. Where the malicious clients are a majority, or n is at most 2, the formula
    has no finite value, and z = 1.5 is used.

    A single malicious client has no spread: it sends its update as trained, and the attack has no effect.

    Attributes:
        z: Number of standard deviations, finite and not 0, or ``"formula"``.
    """

    z: float | str = FIXED

    def __post_init__(self) -> None:
        if isinstance(self.z, str):
            if self.z != FORMULA:
                raise ValueError(f"z is {self.z!r}; it is a number or {FORMULA!r}")
        elif not (math.isfinite(self.z) and self.z != 0):
            raise ValueError(f"z is {self.z}; it is finite and not 0, because 0 sends the mean of honest updates")

    def craft(self, updates: Updates, view: AttackerView) -> Updates:
        """Return the same vector for all malicious clients; a single one sends its update as trained."""
        z = deviations(view.participants, len(updates)) if isinstance(self.z, str) else self.z
        return sent_by_all(updates, mean_of(updates) - z * spread_of(updates))


def deviations(participants: int, malicious: int) -> float:
    """Return z of the paper's formula for n participants of which m are malicious, or 1.5 where it has no value."""
    honest = participants - malicious
    supporters = participants // 2 + 1 - malicious
    if not 0 < honest - supporters < honest:
        return FIXED
    return NormalDist().inv_cdf((honest - supporters) / honest)
