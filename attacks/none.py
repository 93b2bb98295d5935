"""No attack: the ids that would be malicious hold benign data."""

from __future__ import annotations

from attacks.base import Attack, register


@register(
    title="No attack",
    description="Every client is honest. The un-attacked twin of an attacked scenario: the same client ids, schedule "
    "and data streams, with benign data at the ids that the attack would control.",
    knowledge="none",
)
class NoAttack(Attack):
    """The do-nothing attack."""
