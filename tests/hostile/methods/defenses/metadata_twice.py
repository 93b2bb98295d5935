"""Two classes under one name."""

from defenses.base import Defense, Knowledge, Stage, register

METADATA = {
    "title": "Twice",
    "description": "Two classes ask for the name of one file.",
    "stages": (Stage.AGGREGATE,),
    "knowledge": Knowledge.NONE,
}


@register(**METADATA)
class First(Defense):
    """The first of them."""


@register(**METADATA)
class Second(Defense):
    """The second of them."""
