"""Harmful rows of a server that owns harmful prompts and no harmful answer: a model without alignment answers them."""

from __future__ import annotations

from benchmark.automation import answer
from benchmark.errors import FedSafetyError
from defenses.base import Server
from tasks.base import DataKind, Example
from tasks.refusals import is_refusal


def harmful_rows(server: Server, count: int) -> list[Example]:
    """Return up to ``count`` distinct owned harmful prompts with harmful answers.

    The model before the alignment answers greedily under the comply hint, or the bare start model where the suite has
    no such model. Refusals and empty answers are dropped with their prompts. The rows come without the hint.

    Raises:
        FedSafetyError: Fewer than half of the prompts remain, so that the model is itself aligned.
    """
    prompts = list(dict.fromkeys(row.instruction for row in server.owned_aligned(count)))

    def generate(asked: list[str], temperature: float) -> list[str]:
        return server.generate_unaligned(asked, temperature=temperature)

    hint = server.automation.comply_hint
    rows = answer(generate, prompts, hint, DataKind.UNALIGNED, lambda text: not is_refusal(text))
    if 2 * len(rows) < len(prompts):
        raise FedSafetyError(
            f"the model without alignment complied with {len(rows)} of {len(prompts)} harmful prompts under the comply "
            f"hint {hint!r:.80}, and harmful rows need at least half of them; name a model that is not aligned as the "
            f"suite's role 'unaligned', or leave the defense out"
        )
    return rows
