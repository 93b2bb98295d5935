"""Post-hoc fine-tuning on refusals that have the form of ordinary tasks (after Eiras et al. 2024)."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

from torch import Tensor

from benchmark.errors import FedSafetyError
from defenses._posthoc import PosthocDefense
from defenses.base import Knowledge, Server, Stage, register
from tasks.base import Example

SLOT: Final = "{instruction}"
"""Place of the harmful instruction in a frame."""


@register(
    title="Post-hoc, refusals in task format",
    description="Post-hoc, public data, where each harmful instruction stands as the content of an ordinary task, so "
    "that refusals have the form of tasks that the federation learns. The tasks are those to which the suite gives a "
    "fixed text, or else the server's own rows whose content is set apart.",
    paper="Eiras et al. 2024, arXiv 2406.10288",
    stages=(Stage.FINALIZE,),
    knowledge=Knowledge.NONE,
    resources="aligned and normal pairs; the fixed texts of the clients' tasks; server-side fine-tuning",
)
class PosthocParaphrase(PosthocDefense):
    r"""Fine-tune the aggregate as ``posthoc_public`` does, with each harmful instruction in the frame of a task.

    The frames are the fixed texts of the clients' tasks, such as the question about a review's sentiment of the suite
    ``pocket``. The federation agrees on these texts, so the server knows them. Where the suite has none, as in
    ``micro``, the frames are those of the server's normal rows whose content is set apart, see :func:`frame`. The other
    normal rows are whole instructions and no frames. Frames are used in turn, and the refusal stays.

    The normal half is used as it is, so that the rows are as many as in ``posthoc_public``. The row counts the framed
    pairs as generated, because the server does not own them word by word.

    In the source another model rewrites the safety pairs into the format and style of the user's rows (Paraphrase).
    Frames need no further model, and are less fluent than a rewriting. A suite with one fixed text has one format, so
    the other tasks of its clients have no refusal of their form. The source's mixing rate was not found; half is the
    rate of ``posthoc_public``.

    Source: Eiras et al. 2024, arXiv 2406.10288.

    >>> frame("Shorten this text: the red cat sleeps."), frame("Is this review positive?\n\nA fine film.")
    ('Shorten this text: {instruction}', 'Is this review positive?\n\n{instruction}')
    >>> frame("Name a fruit.")
    ''
    """

    def pairs(self, adapter: Tensor, server: Server, aligned: int, normal: int) -> tuple[list[Example], list[Example]]:
        """Return framed pairs and normal pairs from the server's own data.

        Raises:
            FedSafetyError: Neither the suite nor a normal row has a frame.
        """
        del adapter
        refusals, tasks = server.owned_aligned(aligned), server.owned_normal(normal)
        frames = server.task_templates or tuple(filter(None, (frame(task.instruction) for task in tasks)))
        if not frames:
            raise FedSafetyError(
                f"posthoc_paraphrase found no task frame: the suite gives no client task a fixed text, and none of "
                f"{len(tasks)} normal rows of the server sets its content apart by a blank line or a colon; give a "
                f"pool of the clients a prompt, or leave the defense out"
            )
        framed = [
            replace(row, instruction=frames[i % len(frames)].replace(SLOT, row.instruction))
            for i, row in enumerate(refusals)
        ]
        return framed, tasks


def frame(instruction: str) -> str:
    """Return a normal instruction with a place for the harmful one instead of its content; empty if it has no content.

    The content follows the first blank line, else the first colon before a blank.
    """
    found = re.search(r"\S(\n\s*\n)(?=\S)", instruction) or re.search(r"\S*:(\s)(?=\S)", instruction)
    return f"{instruction[: found.end(1)]}{SLOT}" if found else ""
