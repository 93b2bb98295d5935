"""Stand-in class of a submitted attack; each instance calls hooks in a process of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import numpy as np

from attacks.base import Attack, AttackerResources, AttackerView, AttackInfo
from benchmark.methods.source import MethodSource
from benchmark.registry import Entry
from benchmark.sandbox.channel import ChannelError
from benchmark.sandbox.description import describe
from benchmark.sandbox.isolation import Isolation
from benchmark.sandbox.limits import Limits
from benchmark.sandbox.proxy import Sandboxed, stand_in
from benchmark.sandbox.remote import rng_state, rows_of, set_rng_state
from benchmark.sandbox.session import Allowance
from benchmark.sandbox.tools import AttackerTools, layout_of
from benchmark.sandbox.untrusted import examples, random_state, record
from benchmark.updates import Updates
from tasks.base import Example

_WIDEST = 8
"""Bytes of the widest number that a tensor may hold."""


def sandboxed_attack(
    submission: MethodSource,
    limits: Limits | None = None,
    isolation: Isolation | None = None,
    allowance: Allowance | None = None,
) -> Entry[AttackInfo, Attack]:
    """Return a registry entry for a submitted attack, of which nothing is imported here.

    Each instance of the entry's class is a process of its own, started at first use and ended by ``close()``. Hooks
    return the same bits as in this process. Every failure of a hook is a :class:`SubmissionError`. One tool is missing:
    ``leaks_evaluation``, because its answers would reveal the evaluation items.

    Args:
        submission: The attack.
        limits: Bounds on each process.
        isolation: How processes are isolated; the best that this machine offers by default.
        allowance: Time that all its processes have together; without end by default.

    Raises:
        SubmissionError: It cannot be loaded, or its metadata are not usable.
        SandboxUnavailableError: This machine offers no isolation.
    """
    limits = limits or Limits()
    description = describe(submission, AttackInfo, frozenset(_HOOKS), limits, isolation, allowance)
    target = stand_in(SandboxedAttack, submission, description, _HOOKS, limits, isolation, allowance)
    return Entry(description.info, target, submission.origin, submission.digest)


class SandboxedAttack(Sandboxed, Attack):
    """Base of the classes that stand for submitted attacks."""

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        self.tools: AttackerTools | None = None

    def rows(self, hook: str, args: dict[str, Any], rng: np.random.Generator) -> list[Example]:
        """Return the rows that a hook gives; it draws from ``rng``. Tools that a hook was given stay at hand.

        Raises:
            SubmissionError: The hook failed.
        """
        self.start()
        value, _ = self._session.call(hook, {**args, "rng": rng_state(rng)}, tools=self.tools)
        try:
            answer = record(value, "examples", "rng")
            found, state = examples(answer["examples"]), random_state(answer["rng"])
        except ChannelError as error:
            self._session.refuse(hook, f"gave no rows: {error}")
        set_rng_state(rng, state)
        return found

    def crafted(self, own: Updates, view: AttackerView) -> Updates:
        """Return what the submission sends in place of ``own``.

        Raises:
            SubmissionError: The hook failed.
        """
        self.start()
        args = {
            "layout": layout_of(own.layout),
            "client_ids": list(own.client_ids),
            "round_index": view.round_index,
            "participants": view.participants,
        }
        tensors = {"matrix": own.matrix, "sample_counts": own.sample_counts}
        if view.broadcast is not None:
            tensors["broadcast"] = view.broadcast
        room = _WIDEST * own.matrix.numel()
        _, answer = self._session.call("craft", args, tensors, tools=self.tools, room=room)
        if answer.keys() != {"matrix"}:
            self._session.refuse("craft", "gave no matrix")
        return replace(own, matrix=answer["matrix"])


def _pool(self: SandboxedAttack, resources: AttackerResources, rng: np.random.Generator) -> list[Example]:
    """Ask the submission; see :meth:`attacks.base.Attack.pool`."""
    self.tools = AttackerTools(resources, self.budget)
    return self.rows("pool", {"resources": self.tools.known}, rng)


def _poison(
    self: SandboxedAttack, normal: list[Example], pool: list[Example], rng: np.random.Generator
) -> list[Example]:
    """Ask the submission; see :meth:`attacks.base.Attack.poison`."""
    return self.rows("poison", {"normal": rows_of(normal), "pool": rows_of(pool)}, rng)


def _craft(self: SandboxedAttack, own: Updates, view: AttackerView) -> Updates:
    """Ask the submission; see :meth:`attacks.base.Attack.craft`."""
    return self.crafted(own, view)


_HOOKS: Final[dict[str, Callable[..., Any]]] = {"pool": _pool, "poison": _poison, "craft": _craft}
