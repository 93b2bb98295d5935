"""Fails when an instance is made."""

from benchmark.updates import Aggregate, RoundContext, Updates
from defenses.base import Defense, Knowledge, Stage, register


@register(
    title="Fails to start",
    description="Registers properly and fails as soon as somebody makes an instance of it.",
    stages=(Stage.AGGREGATE,),
    knowledge=Knowledge.NONE,
)
class ConstructorFails(Defense):
    """Cannot be made."""

    def __init__(self) -> None:
        raise LookupError("no instance of me")

    def aggregate(self, updates: Updates, context: RoundContext) -> Aggregate:
        """Behave, if it ever comes to this."""
        return super().aggregate(updates, context)
