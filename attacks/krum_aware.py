"""Malicious clients send one common update, shortened, so that a rule that selects by distance finds them together."""

from __future__ import annotations

import math
from dataclasses import dataclass

from attacks._update_space import mean_of, sent_by_all
from attacks.base import AttackerView, register
from attacks.unaligned_data import UnalignedData
from benchmark.updates import Updates


@register(
    title="Krum-aware unaligned data",
    description="Malicious clients train on unaligned pairs. Then all of them send the same update, the mean of "
    "theirs, times a factor. Their distances to each other are zero, so a rule that trusts the update with the nearest "
    "neighbours tends to trust them; a shorter update also lies nearer to everybody else's.",
    paper="Fang et al. 2020, arXiv 1911.11815",
    knowledge="public unaligned pairs; that the rule selects by distance",
)
@dataclass(frozen=True)
class KrumAware(UnalignedData):
    """Data poisoning with a common update λ · mean(x) of the m malicious updates x.

    The attack on Krum of Fang et al. [2020, section 4.2] lets all attackers send nearly the same vector and searches
    the largest λ for which a Krum that the attacker computes selects it. That search needs the honest updates. Here the
    attackers see their own updates only, the direction is the harmful one instead of the reversed honest one, and λ is
    a parameter, so that a search over parameters can tune it.

    Attributes:
        normal_share: Share of a malicious client's rows that stay normal (0 to 1).
        reminder_share: Share of malicious instructions that carry the server's safety reminder (0 to 1).
        factor: λ, positive.
    """

    factor: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (math.isfinite(self.factor) and self.factor > 0):
            raise ValueError(f"factor is {self.factor}; it is a positive, finite factor")

    def craft(self, updates: Updates, view: AttackerView) -> Updates:
        """Return λ · mean(x) for every malicious client; with one client, λ times its own update."""
        del view
        return sent_by_all(updates, mean_of(updates) * self.factor)
