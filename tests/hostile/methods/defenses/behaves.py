"""Does nothing wrong: the plain mean, so that the tests can see that an honest method still works."""

from benchmark.updates import Aggregate, RoundContext, Updates
from defenses.base import Defense, Knowledge, Stage, register


@register(
    title="Behaves",
    description="Averages the clients' updates, each with the same weight.",
    stages=(Stage.AGGREGATE,),
    knowledge=Knowledge.NONE,
)
class Behaves(Defense):
    """Aggregate to the unweighted mean."""

    def aggregate(self, updates: Updates, context: RoundContext) -> Aggregate:
        """Return the mean."""
        return Aggregate(updates.matrix.mean(dim=0))
