"""Counts the prompts that it serves, in everything that could last, and answers by the count."""

import os
from pathlib import Path

from defenses.base import Defense, Knowledge, Prompt, Stage, register

SEEN: list[str] = []


@register(
    title="Remembers prompts",
    description="Keeps the prompts that it serves, to know them when they come again.",
    stages=(Stage.SERVE,),
    knowledge=Knowledge.NONE,
)
class RemembersPrompts(Defense):
    """Answers each prompt with how many it has seen in this process and in earlier ones."""

    def serve(self, prompt: Prompt) -> Prompt:
        """Tell the two counts."""
        before = sum(1 for folder in (".", "/tmp", "/dev/shm") if os.path.exists(f"{folder}/seen"))
        if not SEEN:
            self.before = before
            for folder in (".", "/tmp", "/dev/shm"):
                try:
                    Path(folder, "seen").write_text(prompt.instruction)
                except OSError:
                    continue
        SEEN.append(prompt.instruction)
        return Prompt(prompt.instruction, f"{len(SEEN)} in this process, {self.before} notes from earlier ones")
