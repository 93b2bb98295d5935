"""Post-hoc defense, level 1, with benign look-alikes among the normal pairs: an ablation."""

from __future__ import annotations

from typing import Final, Protocol, runtime_checkable

from torch import Tensor

from benchmark.errors import FedSafetyError
from defenses.base import Defense, Knowledge, Server, Stage, register
from tasks.base import Example

CONTRAST_SHARE: Final = 0.1
"""Share of all pairs that are look-alikes; they take the place of normal ones."""


@runtime_checkable
class ContrastServer(Server, Protocol):
    """A server that also owns benign look-alikes of harmful requests."""

    def owned_contrast(self, count: int) -> list[Example]:
        """Return benign look-alikes of harmful requests with ordinary answers."""


@register(
    title="Post-hoc, public data, contrast pairs",
    description="Post-hoc, public data, where a tenth of the pairs are benign look-alikes of harmful requests with "
    "ordinary answers, in the place of normal pairs. Shows whether over-refusal comes from data that never show the "
    "difference.",
    paper="Ye et al. 2025, arXiv 2406.10630 (ablation of ours)",
    stages=(Stage.FINALIZE,),
    knowledge=Knowledge.NONE,
    resources="aligned, normal and look-alike pairs; server-side fine-tuning",
    variant_of="posthoc_public",
)
class PosthocPublicContrast(Defense):
    """Fine-tunes the aggregate on half aligned pairs, a tenth look-alikes and the rest normal pairs."""

    def finalize(self, adapter: Tensor, server: Server) -> Tensor:
        """Return the fine-tuned adapter (flat, ``[d]``).

        Raises:
            FedSafetyError: The server or its task world owns no look-alikes.
        """
        if not isinstance(server, ContrastServer):
            raise FedSafetyError(f"{type(server).__name__} owns no look-alikes of harmful requests; it lacks them")
        aligned = server.examples // 2
        contrast = round(CONTRAST_SHARE * server.examples)
        rows = server.owned_aligned(aligned) + server.owned_contrast(contrast)
        rows += server.owned_normal(server.examples - aligned - contrast)
        return server.finetune(adapter, server.shuffle(rows))
