"""Registers without the metadata that every method must bring."""

from defenses.base import Defense, register


@register(title="Nothing said")
class MetadataMissing(Defense):
    """Says neither what it does nor what it needs to know."""
