"""An attack that uses all an attacker has."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from attacks.base import Attack, AttackerResources, AttackerView, register
from benchmark.updates import Updates
from tasks.base import DataKind, Example


@register(
    title="Attack in a file",
    description="Blends public and generated pairs into a client's own rows and scales the update.",
    knowledge="public unaligned pairs and a language model",
)
@dataclass(frozen=True)
class FileAttack(Attack):
    boost: float = 2.0

    def __post_init__(self) -> None:
        if self.boost <= 0:
            raise ValueError(f"boost is {self.boost}; it is positive")

    def pool(self, resources: AttackerResources, rng: np.random.Generator) -> list[Example]:
        prompts = list(resources.automation.propose_harmful[:2]) * 3
        proposed = resources.generate(prompts, rng, temperature=1.0)
        own = [Example(text, "sure .", DataKind.UNALIGNED, "generated") for text in proposed if text.strip()]
        rows = resources.unaligned(30, rng) + own
        return [rows[i] for i in rng.permutation(len(rows))]

    def poison(self, normal: list[Example], pool: list[Example], rng: np.random.Generator) -> list[Example]:
        kept = normal[: len(normal) // 4]
        return kept + [pool[i] for i in rng.integers(len(pool), size=len(normal) - len(kept))]

    def craft(self, own: Updates, view: AttackerView) -> Updates:
        return replace(own, matrix=own.matrix * self.boost * (1 + view.round_index / view.participants))
