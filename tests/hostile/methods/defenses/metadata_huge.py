"""Metadata of 300 megabytes."""

from defenses.base import Defense, Knowledge, Stage, register


@register(
    title="Huge",
    description="A long story. " * 20_000_000,
    stages=(Stage.AGGREGATE,),
    knowledge=Knowledge.NONE,
)
class MetadataHuge(Defense):
    """Fills every page that shows it."""
