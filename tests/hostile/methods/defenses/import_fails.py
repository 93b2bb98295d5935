"""Fails while it is imported."""

from defenses.base import Defense

raise ZeroDivisionError(f"{Defense.__name__} is not for me")
