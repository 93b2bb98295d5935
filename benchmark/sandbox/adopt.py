"""Making the registries of a process know submissions: in the sandbox as stand-ins, or imported as one's own code."""

from __future__ import annotations

from collections.abc import Sequence

from attacks.base import attacks
from benchmark.methods.source import ATTACK, REGISTRIES, Submission
from defenses.base import defenses


def adopt(submissions: Sequence[Submission], *, isolated: bool, isolation: str = "auto") -> None:
    """Let the registries of this process know ``submissions``.

    Args:
        submissions: Methods; what is built in or installed is known already and changes only if isolated.
        isolated: Whether their code runs in sandboxes of its own. Nothing of it is imported here then.
        isolation: Name of the way in which it is isolated; ``auto`` for the best that this machine offers.

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
