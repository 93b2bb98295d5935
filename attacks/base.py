"""Interface of attacks: a malicious client chooses its training rows, changes the update that it sends, or both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from benchmark.registry import Info, Registry
from benchmark.updates import Updates
from tasks.base import Automation, Example

# The list of attacks is read without PyTorch.
if TYPE_CHECKING:
    from torch import Tensor


class AttackInfo(Info):
    """Metadata of an attack."""

    knowledge: str
    """What the attacker must know or own, in plain words."""


class AttackerResources(Protocol):
    """Resources of malicious clients: public unaligned pairs, their own normal rows, and an off-the-shelf model."""

    automation: Automation
    """Prompts of the automated pipeline."""

    def unaligned(self, count: int, rng: np.random.Generator) -> list[Example]:
        """Return public harmful-instruction → compliance pairs."""

    def generate(self, prompts: list[str], rng: np.random.Generator, *, temperature: float) -> list[str]:
        """Return the attacker-controlled model's answers; temperature 0 is greedy."""

    def leaks_evaluation(self, text: str) -> bool:
        """Whether ``text`` names an evaluation item; such rows are counted and reported, not used to choose data."""


@dataclass(frozen=True)
class AttackerView:
    """View of colluding malicious clients in a round: their own updates and the adapter that they received.

    One instance of an attack lives through all rounds, so it may keep earlier updates and adapters.

    Attributes:
        round_index: Round number, from 0.
        participants: Number of updates the server will receive.
        broadcast: Adapter (flat, ``[d]``) that the server sent to the clients; ``None`` in a trial without a server.
    """

    round_index: int
    participants: int
    broadcast: Tensor | None = None


class Attack:
    """Base of all attacks; every hook has a do-nothing default."""

    def pool(self, resources: AttackerResources, rng: np.random.Generator) -> list[Example]:
        """Return the malicious rows all malicious clients share, made once per run; default: none."""
        del resources, rng
        return []

    def poison(self, normal: list[Example], pool: list[Example], rng: np.random.Generator) -> list[Example]:
        """Return one malicious client's training rows.

        Args:
            normal: The rows this client would hold were it honest.
            pool: The shared malicious rows.
            rng: The client's own stream.

        Returns:
            As many rows as ``normal``, so that row counts do not reveal malicious clients.
        """
        del pool, rng
        return normal

    def craft(self, updates: Updates, view: AttackerView) -> Updates:
        """Return what the malicious clients send in place of ``updates``, which they trained honestly."""
        del view
        return updates


attacks: Registry[AttackInfo, Attack] = Registry("attack", AttackInfo, "attacks")
register = attacks.register
