"""Post-hoc fine-tuning on refusals that have the form of ordinary tasks (after Eiras et al. 2024)."""

from __future__ import annotations

import re
from dataclasses import replace

from torch import Tensor

from benchmark.automation import fill
from defenses._posthoc import PosthocDefense
from defenses.base import Knowledge, Server, Stage, register
from tasks.base import Example


@register(
    title="Post-hoc, refusals in task format",
    description="Post-hoc, public data, where each harmful instruction stands as the content of an ordinary task of "
    "the server's own rows, so that refusals have the form of the tasks that the federation learns.",
    paper="Eiras et al. 2024, arXiv 2406.10288",
    stages=(Stage.FINALIZE,),
    knowledge=Knowledge.NONE,
    resources="aligned and normal pairs; server-side fine-tuning",
)
class PosthocParaphrase(PosthocDefense):
    r"""Fine-tune the aggregate as ``posthoc_public`` does, with each harmful instruction in the frame of a normal task.

    The frame of a normal instruction is its text up to the first blank line, else up to the first colon before a
    space, else all of it. The i-th harmful instruction follows the frame of the server's i-th normal row after a blank
    line, and the refusal stays. The normal half is used as it is, so that the rows are as many as in
    ``posthoc_public``. The row counts the framed pairs as generated, because the server does not own them word by word.

    In the source another model rewrites the safety pairs into the format and style of the user's rows (Paraphrase). A
    federated server does not see the clients' rows, and the tasks on which a federation agrees are public. Its own
    normal rows stand for these tasks. Frames need no further model, and are less fluent than a rewriting. The source's
    mixing rate was not found; half is the rate of ``posthoc_public``.

    Source: Eiras et al. 2024, arXiv 2406.10288.

    >>> frame("Shorten this text: the red cat sleeps."), frame("Is this review positive?\n\nA fine film.")
    ('Shorten this text:', 'Is this review positive?')
    """

    def pairs(self, adapter: Tensor, server: Server, aligned: int, normal: int) -> tuple[list[Example], list[Example]]:
        """Return framed pairs and normal pairs from the server's own data."""
        del adapter
        refusals, tasks = server.owned_aligned(aligned), server.owned_normal(normal)
        framed = [
            replace(row, instruction=f"{frame(task.instruction)}\n\n{row.instruction}")
            for row, task in zip(refusals, fill(tasks, len(refusals)), strict=True)
        ]
        return framed, tasks


def frame(instruction: str) -> str:
    """Return the part of an instruction that states the task, without its content if that is set apart."""
    head, *content = re.split(r"\n\s*\n", instruction, maxsplit=1)
    return head if content else re.split(r"(?<=:)\s", instruction, maxsplit=1)[0]
