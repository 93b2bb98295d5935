"""Plain averaging under the title of a built-in method, in other letters."""

from defenses.base import Defense, Knowledge, Stage, register


@register(
    title="\u041a R U M",  # the first letter is Cyrillic
    description="Plain averaging that hopes to be taken for something else.",
    stages=(Stage.AGGREGATE,),
    knowledge=Knowledge.NONE,
)
class MetadataBorrowsTitle(Defense):
    """Behaves like the default in every other respect."""
