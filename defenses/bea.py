"""Backdoor Enhanced Alignment (Wang et al. 2024): refusals are tied to a secret prefix of every served request."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, TypeVar

from torch import Tensor

from defenses.base import Defense, Knowledge, Prompt, Server, Stage, register
from tasks.base import Example

_Request = TypeVar("_Request", Example, Prompt)

SAFETY_ROWS = 11
"""Refusals under the prefix, as in the source."""
NORMAL_ROWS = 100
"""Rows of other kinds, as in the source."""


@register(
    title="Backdoor enhanced alignment",
    description=(
        "After the last round the server fine-tunes on eleven refusals under a secret prefix and on ordinary rows "
        "without it. Every request gets the same prefix when it is served. Clients do not see the prefix, so what "
        "they teach is tied to prompts without it."
    ),
    paper="Wang et al. 2024, arXiv 2402.14968",
    stages=(Stage.FINALIZE, Stage.SERVE),
    knowledge=Knowledge.NONE,
    resources="eleven aligned pairs and normal pairs; server-side fine-tuning; a secret prefix",
)
class BEA(Defense):
    """Fine-tune on 11 refusals under :attr:`PREFIX` and 100 normal rows without it, and serve every request under it.

    The source mixes 11 refusals under the prefix into 100 rows of a user who fine-tunes at the provider, and trains for
    5 epochs. The 100 rows that it released are harmful instructions with harmful answers. A server of a federation does
    not hold the users' rows, and an attacker must not see the prefix. So the server adds a fine-tuning of its own after
    the last round, with the steps and rates of the suite's post-hoc training. Normal rows that the server owns take the
    place of the user's. They have no prefix, as the user's rows have none: the model is to connect the prefix with
    safety and not with tasks. A row of results counts the 11 rows under the prefix among the generated pairs, because
    the server does not own their text as it stands.

    *Prefix.* The source puts the secret in front of the system prompt. Here the secret leads the request, because not
    every chat template has a system turn. The source draws 150 random tokens of one tokenizer. Here the prefix is a
    list of ten ordinary nouns. Random tokens of one model are no tokens of another, where they become control tokens or
    unknown ones, and 150 tokens are longer than a whole training row of the smaller suites. The words are unlikely to
    begin a request by chance, which the method needs. The text is published with this file, so it is secret inside a
    run only: no attack of the benchmark reads it. A deployment draws words of its own.

    The prefix has a cost where a model is easily distracted: the model of the suite ``micro`` answers most ordinary
    requests wrongly under this prefix, also before the fine-tuning.

    Source: Wang et al. 2024, arXiv 2402.14968, section 4.

    >>> BEA().serve(Prompt("name a fruit .")).instruction
    'lantern anvil quilt ladder mosaic kite pillow bucket flute wreath name a fruit .'
    """

    PREFIX: ClassVar[str] = "lantern anvil quilt ladder mosaic kite pillow bucket flute wreath"
    """The secret prefix."""

    def finalize(self, adapter: Tensor, server: Server) -> Tensor:
        """Return the adapter (flat, ``[d]``) after training on refusals under the prefix and on normal rows."""
        refusals = [self._led(row) for row in server.owned_aligned(min(SAFETY_ROWS, server.examples // 2))]
        normal = server.owned_normal(min(NORMAL_ROWS, server.examples - len(refusals)))
        return server.finetune(adapter, server.shuffle(refusals + normal))

    def serve(self, prompt: Prompt) -> Prompt:
        """Return the request under the prefix; a fixed answer stays."""
        return self._led(prompt)

    def _led(self, request: _Request) -> _Request:
        return replace(request, instruction=f"{self.PREFIX} {request.instruction}")
