"""Post-hoc fine-tuning with few refusals among ordinary rows (after Bianchi et al. 2023)."""

from __future__ import annotations

from typing import Final

from torch import Tensor

from defenses.base import Defense, Knowledge, Server, Stage, register

SHARE: Final = 0.03
"""Share of the rows that are aligned pairs."""


@register(
    title="Post-hoc, few safety pairs",
    description="After the last round the server fine-tunes the aggregate on rows it owns: three percent of them "
    "harmful instructions with refusals, the others normal tasks. Shows how few refusals suffice.",
    paper="Bianchi et al. 2023, arXiv 2309.07875",
    stages=(Stage.FINALIZE,),
    knowledge=Knowledge.NONE,
    resources="few aligned and many normal pairs; server-side fine-tuning",
)
class PosthocSmall(Defense):
    """Fine-tune the aggregate on 3 % aligned pairs, rounded to the nearest number and at least one, and normal rows.

    The source mixes 100 to 2,000 safety pairs into 20,000 ordinary rows (SafeInstr) and finds that about 3 % change
    much, while many make the model refuse too much. It mixes before the only fine-tuning. In a federation the server
    has no hold on the clients' rows, so it mixes in a fine-tuning of its own. The number of rows is that of
    ``posthoc_public``, so that the two differ in the share alone.

    Source: Bianchi et al. 2023, arXiv 2309.07875.

    >>> [aligned_rows(rows) for rows in (10, 64, 500, 1000)]
    [1, 2, 15, 30]
    """

    def finalize(self, adapter: Tensor, server: Server) -> Tensor:
        """Return the fine-tuned adapter (flat, ``[d]``)."""
        aligned = aligned_rows(server.examples)
        rows = server.owned_aligned(aligned) + server.owned_normal(server.examples - aligned)
        return server.finetune(adapter, server.shuffle(rows))


def aligned_rows(rows: int) -> int:
    """Return how many of ``rows`` rows are aligned pairs."""
    return max(1, round(SHARE * rows))
