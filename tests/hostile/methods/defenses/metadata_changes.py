"""Describes itself in another way in each process, and has other hooks at each import."""

import time

from benchmark.updates import Aggregate, RoundContext, Updates
from defenses.base import Defense, Knowledge, Stage, register

NOW = time.monotonic_ns()


def aggregate(self: Defense, updates: Updates, context: RoundContext) -> Aggregate:
    """Average."""
    return Aggregate(updates.matrix.mean(dim=0))


@register(
    title=f"Changes {NOW}",
    description=f"Describes itself in another way at {NOW} nanoseconds.",
    stages=(Stage.AGGREGATE,),
    knowledge=Knowledge.NONE,
)
class MetadataChanges(Defense):
    """Has the default's hooks, or one of its own."""

    if NOW % 2:
        aggregate = aggregate

    def degenerate_as(self, participants: int, declared_malicious: int) -> str | None:
        """Be nothing else."""
        return None
