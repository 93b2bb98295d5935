"""Asks for the id of a method that everybody knows."""

from defenses.base import Defense, Knowledge, Stage, register


@register(
    id="krum",
    title="Krum",
    description="Claims to be Krum, so that Krum's cells would show what this one does.",
    stages=(Stage.AGGREGATE,),
    knowledge=Knowledge.NONE,
)
class MetadataBorrowsId(Defense):
    """Averages under a borrowed name."""
