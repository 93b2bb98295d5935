"""Unaligned data, with the malicious updates scaled up."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from attacks.base import AttackerView, register
from attacks.unaligned_data import UnalignedData
from benchmark.updates import Updates


@register(
    title="Boosted unaligned data",
    description="Malicious clients train on unaligned pairs and multiply the update they send by a factor, so that "
    "plain averaging lets a few clients outweigh the many. Easy to see by its norm.",
    paper="Bagdasaryan et al. 2020, arXiv 1807.00459",
    knowledge="public unaligned pairs",
)
@dataclass(frozen=True)
class BoostedData(UnalignedData):
    """Data poisoning with update scaling (model replacement).

    Attributes:
        boost: Factor on each malicious update.
    """

    boost: float = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (math.isfinite(self.boost) and self.boost > 0):
            raise ValueError(f"boost is {self.boost}; it is a positive, finite factor")

    def craft(self, updates: Updates, view: AttackerView) -> Updates:
        """Return the malicious updates times the boost."""
        del view
        return replace(updates, matrix=updates.matrix * self.boost)
