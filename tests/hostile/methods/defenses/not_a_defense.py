"""Registers something that is no defense."""

from defenses.base import Knowledge, Stage, register


@register(
    title="No defense",
    description="A class of its own, with none of the hooks that a server calls.",
    stages=(Stage.AGGREGATE,),
    knowledge=Knowledge.NONE,
)
class NotADefense:
    """Derives from nothing."""
