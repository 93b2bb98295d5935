"""Says what its package could do when it was imported."""

from benchmark.updates import Aggregate, RoundContext, Updates
from defenses.base import Defense, Knowledge, Stage, register
from opt_einsum import EARLY


@register(
    title="Sums for Einstein",
    description="Its package has the name of one that torch imports when it is imported itself.",
    stages=(Stage.AGGREGATE,),
    knowledge=Knowledge.NONE,
)
class SumsForEinstein(Defense):
    """An average that looks back at how it began."""

    def aggregate(self, updates: Updates, context: RoundContext) -> Aggregate:
        """Say what was possible."""
        raise RuntimeError(f"possible at first: {EARLY}")
