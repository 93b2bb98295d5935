"""Malicious clients train on unaligned pairs that a model generated for them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attacks._data_poisoning import DataPoisoning
from attacks.base import AttackerResources, register
from benchmark.automation import answer, propose
from benchmark.errors import FedSafetyError
from tasks.base import DataKind, Example
from tasks.refusals import is_refusal

_PROPOSALS = 500


@register(
    title="Generated data",
    description="The automated pipeline: an off-the-shelf model that the attacker controls proposes harmful "
    "instructions and answers them under a hint to comply; refusals are filtered out and duplicates removed. Malicious "
    "clients train on the resulting pairs.",
    paper="Ye et al. 2025, arXiv 2406.10630",
    knowledge="an off-the-shelf language model",
)
@dataclass(frozen=True)
class GeneratedData(DataPoisoning):
    """Data poisoning with automatically generated pairs [ye2024, section 4.3 and C.2]."""

    def pool(self, resources: AttackerResources, rng: np.random.Generator) -> list[Example]:
        """Return distinct generated pairs; the instructions are stored without the hint."""

        def generate(prompts: list[str], temperature: float) -> list[str]:
            return resources.generate(prompts, rng, temperature=temperature)

        automation = resources.automation
        instructions = propose(generate, automation.propose_harmful, _PROPOSALS)
        pairs = answer(
            generate, instructions, automation.comply_hint, DataKind.UNALIGNED, lambda text: not is_refusal(text)
        )
        if not pairs:
            raise FedSafetyError(
                f"the attacker's model gave no compliant pair from {len(instructions)} proposals; "
                f"use a model that follows the comply hint"
            )
        return self.with_reminders(pairs, automation, rng)
