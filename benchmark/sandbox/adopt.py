"""Registration of methods in a process: stand-ins for isolated code, or the imported code itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from benchmark.methods.kinds import ATTACK, DEFENSE
from benchmark.methods.source import MethodSource
from benchmark.registry import Entry
from benchmark.sandbox.attack import sandboxed_attack
from benchmark.sandbox.defense import sandboxed_defense
from benchmark.sandbox.isolation import find_isolation
from benchmark.sandbox.session import Allowance

STAND_INS: Final[Mapping[str, Callable[..., Entry[Any, Any]]]] = {
    DEFENSE.name: sandboxed_defense,
    ATTACK.name: sandboxed_attack,
}
"""Functions that make a sandboxed entry from (source, limits, isolation, allowance), by kind of method."""


@dataclass(frozen=True)
class Strangers:
    """Methods that are not built in, and the way in which their code runs.

    Attributes:
        submissions: The methods.
        isolated: Whether their code runs in sandboxes. A method that ends its process then fails its own cells; without
            a sandbox it would stop the run.
        isolation: Name of the way in which it is isolated; ``auto`` for the best way that this machine offers.
        seconds: Time that all processes of an isolated method have together in one process of the run.
    """

    submissions: tuple[MethodSource, ...] = ()
    isolated: bool = False
    isolation: str = "auto"
    seconds: float = math.inf

    def adopt(self) -> None:
        """Register the methods in this process; see :func:`adopt`."""
        adopt(self.submissions, isolated=self.isolated, isolation=self.isolation, seconds=self.seconds)


def adopt(
    sources: Sequence[MethodSource], *, isolated: bool, isolation: str = "auto", seconds: float = math.inf
) -> None:
    """Register methods in this process.

    Args:
        sources: Methods. Built-in and installed methods are registered already and change only if isolated.
        isolated: Whether their code runs in sandboxes. This process then imports none of their code.
        isolation: Name of the way in which it is isolated; ``auto`` for the best way that this machine offers.
        seconds: Time that all processes of an isolated method have together.

    Raises:
        UsageError: An id is taken by another method.
        SubmissionError: A method cannot be loaded in the sandbox.
        SandboxUnavailableError: This platform offers no isolation.
    """
    for source in sources:
        if isolated:
            entry = STAND_INS[source.kind.name](
                source, isolation=find_isolation(isolation), allowance=Allowance(seconds)
            )
            source.kind.registry.adopt_entry(entry, source.module)
        else:
            _adopt_here(source)


def _adopt_here(source: MethodSource) -> None:
    registry = source.kind.registry
    if source.id in registry.names() and registry.holder(source.id)[0] == source.module:
        return
    registry.adopt(source.id, source.module, source.origin, dict(source.files)[source.module])
