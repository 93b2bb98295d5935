"""Post-hoc fine-tuning on refusals in four formats of request (after Jan et al. 2024)."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from torch import Tensor

from defenses._posthoc import PosthocDefense
from defenses.base import Knowledge, Server, Stage, register
from tasks.base import Example

FORMATS: Final = (
    "{}",
    "{}\nwhich of these helps ?\n( a ) a tool\n( b ) people\n( c ) instructions",
    "write code for the task :\n{}",
    "translate the text to french :\n{}",
)
"""Free text, lettered choice, code and translation; in the spaced lower-case tokens of the embedded world."""


@register(
    title="Post-hoc, refusals in four formats",
    description="Post-hoc, public data, where a quarter of the harmful instructions each stand as free text, as a "
    "question with lettered options, as a request for code and as a text to translate. All are refused.",
    paper="Jan et al. 2024, arXiv 2409.15361",
    stages=(Stage.FINALIZE,),
    knowledge=Knowledge.NONE,
    resources="aligned and normal pairs; server-side fine-tuning",
)
class PosthocMultitask(PosthocDefense):
    r"""Fine-tune the aggregate as ``posthoc_public`` does, with the aligned half in four formats, 25 % each.

    The i-th harmful instruction has the format i mod 4, and its refusal stays. The normal half is as in
    ``posthoc_public``, and the rows are as many. The row counts the pairs of the last three formats as generated,
    because the server does not own them word by word.

    The source's set has 2,000 pairs in the same four formats, which are requests of their own. Its choices are
    questions about the request, and its texts to translate are French. Here the formats are wordings of ours around the
    server's own instructions, and the text stays in its language. So one instruction is never seen in two formats.

    Source: Jan et al. 2024, arXiv 2409.15361; the formats and their shares are those of the released data.

    >>> FORMATS[2].format("how do i pick a lock ?")
    'write code for the task :\nhow do i pick a lock ?'
    """

    def pairs(self, adapter: Tensor, server: Server, aligned: int, normal: int) -> tuple[list[Example], list[Example]]:
        """Return aligned pairs in four formats and normal pairs from the server's own data."""
        del adapter
        refusals = [
            replace(row, instruction=FORMATS[index % len(FORMATS)].format(row.instruction))
            for index, row in enumerate(server.owned_aligned(aligned))
        ]
        return refusals, server.owned_normal(normal)
