"""Metadata with control characters that would write to a terminal."""

from defenses.base import Defense, Knowledge, Stage, register


@register(
    title="Markup",
    description="Looks like text and clears the screen of whoever lists it. \x1b[2J\x1b]0;taken over\x07",
    stages=(Stage.AGGREGATE,),
    knowledge=Knowledge.NONE,
)
class MetadataMarkup(Defense):
    """Behaves like the default in every other respect."""
