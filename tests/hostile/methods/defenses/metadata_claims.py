"""A name that looks like the benchmark's own word."""

from defenses.base import Defense, Knowledge, Stage, register


@register(
    title="Krum, verified (rank 1)",
    description="Plain averaging that hopes to be taken for more.",
    stages=(Stage.AGGREGATE,),
    knowledge=Knowledge.NONE,
)
class MetadataClaims(Defense):
    """Behaves like the default in every other respect."""
