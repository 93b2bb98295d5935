"""Says whether its package was there before the limits."""

import resource

from benchmark.updates import Aggregate, RoundContext, Updates
from defenses.base import Defense, Knowledge, Stage, register
from sitecustomize import FILE_LIMIT


@register(
    title="Customises the site",
    description="Its package has the name of one that every interpreter imports when it starts.",
    stages=(Stage.AGGREGATE,),
    knowledge=Knowledge.NONE,
)
class CustomisesSite(Defense):
    """An average that looks back at how it began."""

    def aggregate(self, updates: Updates, context: RoundContext) -> Aggregate:
        """Say how it began."""
        raise RuntimeError(f"no limit at first: {FILE_LIMIT == resource.RLIM_INFINITY}")
