"""Public unaligned pairs, and updates twice as long."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from attacks.base import Attack, AttackerResources, AttackerView, register
from benchmark.updates import Updates
from tasks.base import Example


@register(
    title="Louder",
    description="Trains on existing harmful-instruction to compliance pairs and sends twice the resulting update.",
    knowledge="owns public unaligned pairs; sees its own updates only",
)
class Louder(Attack):
    """Malicious rows are public pairs; updates are doubled.

    Args:
        pairs: Number of distinct pairs.
        factor: What updates are multiplied by.
    """

    def __init__(self, pairs: int = 200, factor: float = 2.0) -> None:
        self.pairs, self.factor = pairs, factor

    def pool(self, resources: AttackerResources, rng: np.random.Generator) -> list[Example]:
        """Return public pairs."""
        return resources.unaligned(self.pairs, rng)

    def poison(self, normal: list[Example], pool: list[Example], rng: np.random.Generator) -> list[Example]:
        """Return as many malicious rows as the client would hold, each as often as needed."""
        order = rng.permutation(len(pool))
        return [pool[order[i % len(pool)]] for i in range(len(normal))]

    def craft(self, own: Updates, view: AttackerView) -> Updates:
        """Return the updates times the factor."""
        return replace(own, matrix=own.matrix * self.factor)
