"""Post-hoc defense, level 1: the server owns aligned and normal pairs."""

from __future__ import annotations

from torch import Tensor

from defenses._posthoc import PosthocDefense
from defenses.base import Knowledge, Server, Stage, register
from tasks.base import Example


@register(
    title="Post-hoc, public data",
    description="After the last round the server fine-tunes the aggregate on pairs it owns: half of them harmful "
    "instructions with refusals, half normal tasks. Level 1 of the post-hoc defense.",
    paper="Ye et al. 2025, arXiv 2406.10630",
    stages=(Stage.FINALIZE,),
    knowledge=Knowledge.NONE,
    resources="aligned and normal pairs; server-side fine-tuning",
)
class PosthocPublic(PosthocDefense):
    """Level 1 [ye2024, section 5]."""

    def pairs(self, adapter: Tensor, server: Server, aligned: int, normal: int) -> tuple[list[Example], list[Example]]:
        """Return pairs from the server's own data."""
        del adapter
        return server.owned_aligned(aligned), server.owned_normal(normal)
