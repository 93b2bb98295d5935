"""Malicious clients train on existing unaligned pairs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attacks._data_poisoning import DataPoisoning
from attacks.base import AttackerResources, register
from tasks.base import Example

_POOL = 500


@register(
    title="Unaligned data",
    description="Malicious clients follow the training protocol but train on existing pairs of a harmful instruction "
    "and a compliant answer. Nothing about their updates is manipulated; the harm is in the data.",
    paper="Ye et al. 2025, arXiv 2406.10630",
    knowledge="public unaligned pairs",
)
@dataclass(frozen=True)
class UnalignedData(DataPoisoning):
    """Data poisoning with public unaligned pairs [ye2024, section 4]."""

    def pool(self, resources: AttackerResources, rng: np.random.Generator) -> list[Example]:
        """Return the pairs all malicious clients draw from."""
        return self.with_reminders(resources.unaligned(_POOL, rng), resources.automation, rng)
