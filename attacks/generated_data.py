"""Malicious clients train on unaligned pairs that a model generated for them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attacks._data_poisoning import DataPoisoning
from attacks._generated import generated_pairs
from attacks.base import AttackerResources, register
from tasks.base import Example

_PROPOSALS = 500


@register(
    title="Generated data",
    description="The automated pipeline: an off-the-shelf model that the attacker controls proposes harmful "
    "instructions and answers them under a hint to comply; refusals are filtered out and duplicates removed. Malicious "
    "clients train on the resulting pairs.",
    paper="Ye et al. 2025, arXiv 2406.10630",
    knowledge="an off-the-shelf language model",
    traits=("generates",),
)
@dataclass(frozen=True)
class GeneratedData(DataPoisoning):
    """Data poisoning with automatically generated pairs [ye2024, section 4.3 and C.2]."""

    def pool(self, resources: AttackerResources, rng: np.random.Generator) -> list[Example]:
        """Return distinct generated pairs; the instructions are stored without the hint."""
        pairs = generated_pairs(resources, _PROPOSALS, rng)
        return self.with_reminders(pairs, resources.automation, rng)
