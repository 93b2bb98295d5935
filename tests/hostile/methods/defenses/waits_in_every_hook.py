"""Waits in every hook, each time a little less than a hook may take."""

import time

from torch import Tensor

from benchmark.updates import Aggregate, RoundContext, Updates
from defenses.base import Defense, Knowledge, Prompt, Server, Stage, register

SECONDS = 25.0


@register(
    title="Waits",
    description="Takes its time in every hook, and averages in the end.",
    stages=(Stage.PREPARE, Stage.AGGREGATE, Stage.FINALIZE, Stage.SERVE),
    knowledge=Knowledge.NONE,
)
class WaitsInEveryHook(Defense):
    """No call is too long; all calls together are."""

    def prepare(self, server: Server) -> None:
        """Wait."""
        time.sleep(SECONDS)

    def aggregate(self, updates: Updates, context: RoundContext) -> Aggregate:
        """Wait, then average."""
        time.sleep(SECONDS)
        return Aggregate(updates.matrix.mean(dim=0))

    def finalize(self, adapter: Tensor, server: Server) -> Tensor:
        """Wait, then change nothing."""
        time.sleep(SECONDS)
        return adapter

    def serve(self, prompt: Prompt) -> Prompt:
        """Wait, then change nothing."""
        time.sleep(SECONDS)
        return prompt
