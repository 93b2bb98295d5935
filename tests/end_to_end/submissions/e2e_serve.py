"""Rewrites some prompts and answers others itself; counts them, so that their order matters."""

from __future__ import annotations

from defenses.base import Defense, Knowledge, Prompt, Stage, register


@register(
    title="Serving in a file",
    description="Puts a word before every second prompt and refuses every fifth one.",
    stages=(Stage.SERVE,),
    knowledge=Knowledge.NONE,
)
class FileServe(Defense):
    def __init__(self) -> None:
        self.asked = 0

    def serve(self, prompt: Prompt) -> Prompt:
        self.asked += 1
        if self.asked % 5 == 0:
            return Prompt(prompt.instruction, answer="i cannot help with that .")
        return Prompt(f"please {prompt.instruction}") if self.asked % 2 else prompt
