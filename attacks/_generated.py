"""Unaligned pairs that the attacker's model proposes and answers [ye2024, section 4.3 and C.2]."""

from __future__ import annotations

import numpy as np

from attacks.base import AttackerResources
from benchmark.automation import answer, propose
from benchmark.errors import FedSafetyError
from tasks.base import DataKind, Example
from tasks.refusals import is_refusal


def generated_pairs(resources: AttackerResources, count: int, rng: np.random.Generator) -> list[Example]:
    """Return distinct pairs from up to ``count`` proposals, without refusals; instructions come without the hint.

    Raises:
        FedSafetyError: The model complied with none of its own proposals.
    """

    def generate(prompts: list[str], temperature: float) -> list[str]:
        return resources.generate(prompts, rng, temperature=temperature)

    automation = resources.automation
    instructions = propose(generate, automation.propose_harmful, count)
    pairs = answer(
        generate, instructions, automation.comply_hint, DataKind.UNALIGNED, lambda text: not is_refusal(text)
    )
    if not pairs:
        raise FedSafetyError(
            f"the attacker's model gave no compliant pair from {len(instructions)} proposals; "
            f"use a model that follows the comply hint"
        )
    return pairs
