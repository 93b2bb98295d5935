"""Returns far more than anybody asked for; the parameter says of what."""

import torch

from benchmark.updates import Aggregate, RoundContext, Updates
from defenses.base import Defense, Knowledge, Prompt, Server, Stage, register


def nested(depth: int) -> list[object]:
    """Return lists inside lists."""
    outer: list[object] = []
    for _ in range(depth):
        outer = [outer]
    return outer


@register(
    title="Returns much",
    description="Returns and sends more than fits into anybody's memory.",
    stages=(Stage.PREPARE, Stage.AGGREGATE, Stage.SERVE),
    knowledge=Knowledge.NONE,
)
class ReturnsMuch(Defense):
    """One excess an instance.

    Args:
        what: Name of the excess.
    """

    def __init__(self, what: str = "tensor") -> None:
        self.what = what

    def degenerate_as(self, participants: int, declared_malicious: int) -> str | None:
        """Name a rule of many megabytes, or one of many levels."""
        return {"name": "x" * 200_000_000, "levels": nested(100_000)}.get(self.what)

    def prepare(self, server: Server) -> None:
        """Ask with arguments of many megabytes, or of many levels."""
        if self.what == "prompt":
            server.generate(["x" * 200_000_000], adapter=None, temperature=0.0)
        elif self.what == "prompts":
            server.generate(["x"] * 5_000_000, adapter=None, temperature=0.0)
        elif self.what == "levels":
            server.generate(nested(100_000), adapter=None, temperature=0.0)

    def aggregate(self, updates: Updates, context: RoundContext) -> Aggregate:
        """Return a vector as long as many models."""
        return Aggregate(torch.zeros(60_000_000))

    def serve(self, prompt: Prompt) -> Prompt:
        """Answer with a library."""
        return Prompt(prompt.instruction, "yes " * 50_000_000)
