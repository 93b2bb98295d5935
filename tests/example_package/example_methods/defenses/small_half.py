"""Mean of the updates with the smaller half of the norms."""

from __future__ import annotations

from benchmark.updates import Aggregate, RoundContext, Updates
from defenses.base import Defense, Knowledge, Stage, register, selection
from example_methods.norms import smallest


@register(
    title="Small half",
    description="Averages the half of the updates with the smallest norms.",
    stages=(Stage.AGGREGATE,),
    knowledge=Knowledge.NONE,
)
class SmallHalf(Defense):
    """Keeps the ceil(n / 2) updates of least L2 norm."""

    def aggregate(self, updates: Updates, context: RoundContext) -> Aggregate:
        """Return the mean of the kept updates."""
        kept = smallest(updates.matrix, (len(updates) + 1) // 2)
        return Aggregate(updates.matrix[kept].mean(dim=0), selection(kept, len(updates)))
