"""Describes itself in another way in each process, and fills no hook that a check must call."""

import time

from defenses.base import Defense, Knowledge, Stage, register

NOW = time.monotonic_ns()


@register(
    title="Changes alone",
    description=f"Describes itself in another way at {NOW} nanoseconds.",
    stages=(Stage.AGGREGATE,),
    knowledge=Knowledge.NONE,
)
class MetadataChangesAlone(Defense):
    """Averages by the default."""

    def degenerate_as(self, participants: int, declared_malicious: int) -> str | None:
        """Be nothing else."""
        return None
