"""A method under examination, its checks, and their outcomes."""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from benchmark.execution.outcome import reason_of as cell_reason
from benchmark.execution.run import usable_cores
from benchmark.registry import Entry, Trait
from benchmark.sandbox.proxy import Sandboxed, created
from benchmark.submission.contract.report import Finding, Part, ShapeCost, Verdict

InfoT = TypeVar("InfoT")
T = TypeVar("T")

_REASON_LENGTH = 1000


@dataclass(frozen=True)
class Outcome:
    """Outcome of a check: verdict, finding and remedy."""

    verdict: Verdict
    found: str = ""
    remedy: str = ""


def passes(found: str = "") -> Outcome:
    """Return a pass."""
    return Outcome(Verdict.PASSED, found)


def fails(found: str, remedy: str) -> Outcome:
    """Return a failure."""
    return Outcome(Verdict.FAILED, found, remedy)


def warns(found: str, remedy: str) -> Outcome:
    """Return a warning."""
    return Outcome(Verdict.WARNING, found, remedy)


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        part: Part of the whole check that it belongs to.
        name: Stable name.
        checked: Its subject, in words.
        run: Performs the check; an exception is a failure.
        remedy: Remedy if it raises.
        needs: Names of checks that must pass before this one runs.
    """

    part: Part
    name: str
    checked: str
    run: Callable[[], Outcome]
    remedy: str = "mend what raises; the same call succeeds in every run"
    needs: tuple[str, ...] = ()


@dataclass
class Examination:
    """Checks to perform, with their measurements.

    Attributes:
        checks: In order.
        shapes: Time and memory by shape; filled by the checks.
        metered: Use of server tools; filled by the checks.
        observed: Traits that the method's calls of its tools show; filled by the checks.
    """

    checks: list[Check] = field(default_factory=list)
    shapes: list[ShapeCost] = field(default_factory=list)
    metered: dict[str, float] = field(default_factory=dict)
    observed: set[Trait] = field(default_factory=set)


@dataclass(frozen=True)
class Subject(Generic[InfoT, T]):
    """A method whose instances can be made anew.

    Attributes:
        entry: The method; where it runs apart, a stand-in.
        files: Files of its own code, for messages.
    """

    entry: Entry[Any, T]
    files: tuple[Path, ...] = ()

    def fresh(self, *hooks: str) -> AbstractContextManager[T]:
        """Return a context with a new instance; its process, where it has one, is started for ``hooks`` and ended."""
        return created(self.entry, hooks=hooks)

    def overrides(self, hook: str, base: type) -> bool:
        """Return whether the method overrides ``hook``."""
        return getattr(self.entry.target, hook) is not getattr(base, hook)

    def reason(self, error: BaseException) -> str:
        """Return the reason of a failure, with its place in the method's own code if there is one."""
        return reason_of(error, self.files)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch use ``count`` threads in this process and in those started in the context."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def all_threads() -> AbstractContextManager[None]:
    """Return a context in which torch uses a thread for each processor that there is."""
    return threads(usable_cores())


def perform(
    checks: Sequence[Check], subject: Subject[Any, Any], on_done: Callable[[], None], seconds: float = math.inf
) -> Iterator[Finding]:
    """Yield the finding of each check; a check that needs a failed check is not run.

    Args:
        checks: In order.
        subject: The method, for the places of errors.
        on_done: Called after each.
        seconds: Bound on the time of all checks of a method whose code runs in this process. A sandbox bounds the time
            of each hook as well.
    """
    unmet: set[str] = set()
    began = time.perf_counter()
    bounded = not issubclass(subject.entry.target, Sandboxed)
    late = False
    for check in checks:
        missing = [name for name in check.needs if name in unmet]
        passed_by = time.perf_counter() - began
        if late:
            outcome = Outcome(Verdict.NOT_RUN, "left out because the checks before took too long")
        elif bounded and passed_by > seconds:
            late = True
            found = f"the checks before it took {passed_by:.0f} s; at most {seconds:g} s are allowed for all"
            outcome = fails(found, "let the hooks wait for nothing, and compute less in them")
        elif missing:
            outcome = Outcome(Verdict.NOT_RUN, f"left out because {' and '.join(missing)} did not pass")
        else:
            outcome = _guarded(check, subject)
        if outcome.verdict in (Verdict.FAILED, Verdict.NOT_RUN, Verdict.NOT_APPLICABLE):
            unmet.add(check.name)
        on_done()
        yield Finding(
            part=check.part,
            check=check.name,
            checked=check.checked,
            verdict=outcome.verdict,
            found=outcome.found,
            remedy=outcome.remedy,
        )


def _guarded(check: Check, subject: Subject[Any, Any]) -> Outcome:
    try:
        return check.run()
    except (Exception, SystemExit) as error:  # a submitted method may raise anything
        return fails(subject.reason(error), check.remedy)


def reason_of(error: BaseException, files: Sequence[Path] = ()) -> str:
    """Return the reason of a failure: the text of our own errors, else type, text and last place in ``files``."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) in files]
    places = [f" (line {frame.lineno} of {Path(frame.filename).name}, in {frame.name})" for frame in frames]
    return cell_reason(error, places[-1] if places else "")[:_REASON_LENGTH]
