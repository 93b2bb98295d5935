"""Cannot be asked for its shape, and serves nonsense."""

from __future__ import annotations

import os

from defenses.base import Defense, Knowledge, Prompt, Stage, register


@register(
    title="Cannot be asked",
    description="Ends its process when its shape is checked, before anything is run.",
    stages=(Stage.SERVE,),
    knowledge=Knowledge.NONE,
)
class Unasked(Defense):
    def check_shape(self, participants: int, declared_malicious: int) -> None:
        os._exit(4)

    def serve(self, prompt: Prompt) -> Prompt:
        return prompt
