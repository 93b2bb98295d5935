"""Post-hoc defense, level 2: an external aligned model generates the pairs."""

from __future__ import annotations

from torch import Tensor

from defenses._posthoc import PosthocDefense, generated_pairs
from defenses.base import Knowledge, Server, Stage, register
from tasks.base import Example


@register(
    title="Post-hoc, external model",
    description="After the last round the server fine-tunes the aggregate on pairs that an external aligned model "
    "proposed and answered: half harmful instructions answered under a safety reminder, half normal tasks. Level 2 of "
    "the post-hoc defense.",
    paper="Ye et al. 2025, arXiv 2406.10630",
    stages=(Stage.FINALIZE,),
    knowledge=Knowledge.NONE,
    resources="an external aligned model; server-side fine-tuning",
    traits=("generates_external",),
)
class PosthocExternal(PosthocDefense):
    """Level 2 [ye2024, section 5 and C.2]."""

    def pairs(self, adapter: Tensor, server: Server, aligned: int, normal: int) -> tuple[list[Example], list[Example]]:
        """Return pairs that the external model proposed and answered."""
        del adapter

        def generate(prompts: list[str], temperature: float) -> list[str]:
            return server.generate_external(prompts, temperature=temperature)

        return generated_pairs(generate, server, aligned, normal)
