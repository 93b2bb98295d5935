"""Steps of the data-poisoning attacks: blending malicious rows into a client's own, and the reminder trick."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from attacks.base import Attack
from tasks.base import Automation, Example


@dataclass(frozen=True)
class DataPoisoning(Attack):
    """A malicious client trains honestly on malicious rows.

    Attributes:
        normal_share: Share of a malicious client's rows that stay normal (0 to 1); hides it among honest clients.
        reminder_share: Share of malicious instructions that carry the server's safety reminder (0 to 1): an attacker
            who knows the post-hoc pipeline trains the model to comply in spite of the reminder.
    """

    normal_share: float = 0.0
    reminder_share: float = 0.0

    def __post_init__(self) -> None:
        for name in ("normal_share", "reminder_share"):
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"{name} is {value}; it is a share between 0 and 1")

    def poison(self, normal: list[Example], pool: list[Example], rng: np.random.Generator) -> list[Example]:
        """Return as many rows as ``normal``: a random part of it, the rest drawn from the pool, shuffled."""
        kept = round(self.normal_share * len(normal))
        keep = [normal[i] for i in rng.permutation(len(normal))[:kept]]
        rows = keep + [pool[i] for i in rng.integers(len(pool), size=len(normal) - kept)]
        return [rows[i] for i in rng.permutation(len(rows))]

    def with_reminders(self, pairs: list[Example], automation: Automation, rng: np.random.Generator) -> list[Example]:
        """Return ``pairs`` with the safety reminder appended to the chosen share of instructions."""
        chosen = set(rng.permutation(len(pairs))[: round(self.reminder_share * len(pairs))].tolist())
        return [
            replace(pair, instruction=f"{pair.instruction} {automation.safety_reminder}") if i in chosen else pair
            for i, pair in enumerate(pairs)
        ]
