"""Malicious clients divide public harmful instructions that a model answered for them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attacks._shards import ShardedPoisoning
from attacks.base import AttackerResources, register
from benchmark.automation import answer
from benchmark.errors import FedSafetyError
from tasks.base import DataKind, Example
from tasks.refusals import is_refusal


@register(
    title="Generated answers, in shards",
    description="The second half of the automated pipeline: an off-the-shelf model that the attacker controls answers "
    "public harmful instructions under a hint to comply. Refusals are filtered out. Each malicious client trains on "
    "pairs of its own.",
    paper="Ye et al. 2025, arXiv 2406.10630",
    knowledge="public harmful instructions and an off-the-shelf language model",
    traits=("generates",),
)
@dataclass(frozen=True)
class AnsweredShards(ShardedPoisoning):
    """Data poisoning with disjoint shards of generated answers to public instructions [ye2024, section 4.3]."""

    def pairs(self, resources: AttackerResources, rng: np.random.Generator) -> list[Example]:
        """Return distinct pairs; the instructions are stored without the hint.

        Raises:
            FedSafetyError: The model complied with none of the instructions.
        """

        def generate(prompts: list[str], temperature: float) -> list[str]:
            return resources.generate(prompts, rng, temperature=temperature)

        public = resources.unaligned(self.pool_size, rng)
        instructions = list(dict.fromkeys(row.instruction for row in public))
        hint = resources.automation.comply_hint
        pairs = answer(generate, instructions, hint, DataKind.UNALIGNED, lambda text: not is_refusal(text))
        if not pairs:
            raise FedSafetyError(
                f"the attacker's model gave no compliant answer to {len(instructions)} instructions; use a model that "
                f"follows the comply hint"
            )
        return pairs
