"""The refusal of the attacks that put refusals into training rows."""

from typing import Final

REFUSAL: Final = "I'm sorry, but I can't help with that."
"""A generic refusal, which holds no word of the request."""
