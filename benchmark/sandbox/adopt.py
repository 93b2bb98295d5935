"""Registration of submissions in a process: stand-ins for isolated code, or the imported code itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from attacks.base import attacks
from benchmark.methods.source import ATTACK, REGISTRIES, Submission
from defenses.base import defenses


@dataclass(frozen=True)
class Strangers:
    """Methods that are not built in, and the way in which their code runs.

    Attributes:
        submissions: The methods.
        isolated: Whether their code runs in sandboxes. A method that ends its process then fails its own cells; without
            a sandbox it would stop the run.
        isolation: Name of the way in which it is isolated; ``auto`` for the best way that this machine offers.
    """

    submissions: tuple[Submission, ...] = ()
    isolated: bool = False
    isolation: str = "auto"

    def adopt(self) -> None:
        """Register the methods in this process; see :func:`adopt`."""
        adopt(self.submissions, isolated=self.isolated, isolation=self.isolation)


def adopt(submissions: Sequence[Submission], *, isolated: bool, isolation: str = "auto") -> None:
    """Register submissions in this process.

    Args:
        submissions: Methods. Built-in and installed methods are registered already and change only if isolated.
        isolated: Whether their code runs in sandboxes. This process then imports none of their code.
        isolation: Name of the way in which it is isolated; ``auto`` for the best way that this machine offers.

    Raises:
        UsageError: An id is taken by another method.
        SubmissionError: A method cannot be loaded in the sandbox.
        SandboxUnavailableError: This platform offers no isolation.
    """
    for submission in submissions:
        if isolated:
            _adopt_isolated(submission, isolation)
        else:
            _adopt_here(submission)


def _adopt_isolated(submission: Submission, isolation: str) -> None:
    from benchmark.sandbox.attack import sandboxed_attack
    from benchmark.sandbox.defense import sandboxed_defense
    from benchmark.sandbox.isolation import find_isolation

    way = find_isolation(isolation)
    if submission.kind == ATTACK:
        attacks.adopt_entry(sandboxed_attack(submission, isolation=way), submission.module)
    else:
        defenses.adopt_entry(sandboxed_defense(submission, isolation=way), submission.module)


def _adopt_here(submission: Submission) -> None:
    registry = REGISTRIES[submission.kind]
    if submission.id in registry.names() and registry.holder(submission.id)[0] == submission.module:
        return
    registry.adopt(submission.id, submission.module, submission.origin, dict(submission.files)[submission.module])
