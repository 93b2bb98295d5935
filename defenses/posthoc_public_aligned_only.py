"""Post-hoc defense, level 1, without the normal half: an ablation."""

from __future__ import annotations

from torch import Tensor

from defenses.base import Defense, Knowledge, Server, Stage, register


@register(
    title="Post-hoc, public data, aligned only",
    description="Post-hoc, public data, with as many pairs, all of them harmful instructions with refusals. Shows what "
    "the normal half of the pairs is for.",
    paper="Ye et al. 2025, arXiv 2406.10630 (ablation of ours)",
    stages=(Stage.FINALIZE,),
    knowledge=Knowledge.NONE,
    resources="aligned pairs; server-side fine-tuning",
    variant_of="posthoc_public",
)
class PosthocPublicAlignedOnly(Defense):
    """Fine-tunes the aggregate on aligned pairs alone."""

    def finalize(self, adapter: Tensor, server: Server) -> Tensor:
        """Return the fine-tuned adapter (flat, ``[d]``)."""
        return server.finetune(adapter, server.shuffle(server.owned_aligned(server.examples)))
