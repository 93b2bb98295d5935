"""A defense that is not registered at all."""

from defenses.base import Defense


class MetadataAbsent(Defense):
    """Has no metadata."""
