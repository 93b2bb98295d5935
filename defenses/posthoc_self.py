"""Post-hoc defense, level 3: the attacked global model generates the pairs itself."""

from __future__ import annotations

from torch import Tensor

from defenses._posthoc import PosthocDefense, generated_pairs
from defenses.base import Knowledge, Server, Stage, register
from tasks.base import Example


@register(
    title="Post-hoc, self-generated",
    description="After the last round the server fine-tunes the aggregate on pairs that the attacked global model "
    "itself proposed and answered, harmful instructions under a safety reminder. Needs nothing but the model: level 3 "
    "of the post-hoc defense.",
    paper="Ye et al. 2025, arXiv 2406.10630",
    stages=(Stage.FINALIZE,),
    knowledge=Knowledge.NONE,
    resources="server-side generation and fine-tuning",
    traits=("generates",),
)
class PosthocSelf(PosthocDefense):
    """Level 3 [ye2024, section 5 and C.2]."""

    def pairs(self, adapter: Tensor, server: Server, aligned: int, normal: int) -> tuple[list[Example], list[Example]]:
        """Return pairs that the global model with its attacked adapter proposed and answered."""

        def generate(prompts: list[str], temperature: float) -> list[str]:
            return server.generate(prompts, adapter=adapter, temperature=temperature)

        return generated_pairs(generate, server, aligned, normal)
