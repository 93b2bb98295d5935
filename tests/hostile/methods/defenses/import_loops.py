"""Never ends its import."""

from defenses.base import Defense

while Defense:
    pass
