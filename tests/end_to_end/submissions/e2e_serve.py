"""Rewrites some prompts and answers others itself, by what they say: their order is not a method's to know."""

from __future__ import annotations

from defenses.base import Defense, Knowledge, Prompt, Stage, register


@register(
    title="Serving in a file",
    description="Puts a word before about every second prompt and refuses about every fifth one.",
    stages=(Stage.SERVE,),
    knowledge=Knowledge.NONE,
)
class FileServe(Defense):
    def serve(self, prompt: Prompt) -> Prompt:
        number = sum(prompt.instruction.encode())
        if number % 5 == 0:
            return Prompt(prompt.instruction, answer="i cannot help with that .")
        return Prompt(f"please {prompt.instruction}") if number % 2 else prompt
