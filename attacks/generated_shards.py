"""Malicious clients divide unaligned pairs that a model generated for them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attacks._generated import generated_pairs
from attacks._shards import ShardedPoisoning
from attacks.base import AttackerResources, register
from tasks.base import Example


@register(
    title="Generated data, in shards",
    description="As generated data, from as many proposals as malicious clients have rows, and divided: each of them "
    "trains on pairs of its own. Refusals are filtered out, so fewer pairs may be left, which are then shared again.",
    paper="Ye et al. 2025, arXiv 2406.10630",
    knowledge="an off-the-shelf language model",
    traits=("generates",),
)
@dataclass(frozen=True)
class GeneratedShards(ShardedPoisoning):
    """Data poisoning with disjoint shards of automatically generated pairs [ye2024, section 4.3 and C.2]."""

    def pairs(self, resources: AttackerResources, rng: np.random.Generator) -> list[Example]:
        """Return distinct generated pairs; the instructions are stored without the hint.

        Raises:
            FedSafetyError: The model complied with none of its own proposals.
        """
        return generated_pairs(resources, self.pool_size, rng)
