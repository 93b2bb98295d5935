"""The check of a method: metadata, contract, robustness, and a smoke run; in a sandbox unless that is switched off.

A check always ends with a report. The report shows mistakes of an honest method. It cannot show that a method is
honest: only the verifier's own runs expose a method that behaves differently during a check.
"""

from __future__ import annotations

import datetime
import platform
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from io import StringIO
from typing import Any

from rich.console import Console

from benchmark import PROTOCOL_VERSION, __version__
from benchmark.errors import FedSafetyError, SandboxUnavailableError, StorageError
from benchmark.methods.source import MethodSource
from benchmark.progress import Reporter
from benchmark.records.environment import environment
from benchmark.registry import Entry
from benchmark.sandbox.adopt import STAND_INS, adopt
from benchmark.sandbox.isolation import find_isolation
from benchmark.sandbox.limits import Limits
from benchmark.sandbox.session import Allowance
from benchmark.submission.contract.base import CONTRACTS
from benchmark.submission.contract.examination import Examination, Subject, perform, reason_of, threads
from benchmark.submission.contract.report import CheckReport, Finding, Isolation, Part, SmokeScore, Verdict, passed
from benchmark.submission.contract.robustness import PATIENCE
from benchmark.submission.contract.smoke import SMOKE_SEED, Scorer, smoke_run
from benchmark.suites.suite import Suite

NO_ISOLATION = (
    "the method's code ran in this process, with all rights of the user who started it: nothing kept it from reading, "
    "writing or asking the network, and neither time nor memory was limited"
)
"""Warning of every report that was made without a sandbox."""

_SMALL_CALL = Limits(call_seconds=30.0)
"""For rounds of a few thousand numbers."""
_LARGE_CALL = Limits(call_seconds=PATIENCE)
CHECK_SECONDS = 900.0
"""Time for loading and for all hooks of a method before its smoke run; an honest method needs a tenth of it."""
_FIRST = "imports, metadata or constructor fail; the text says where"


@dataclass(frozen=True)
class Options:
    """How to check.

    Attributes:
        sandbox: Whether the method's code runs in processes that see nothing but what they are given.
        isolation: Name of the way of isolating, or ``auto``.
        workers: Training processes of the smoke run; 0 for one per processor, or as many as memory holds.
        scales: Sizes at which time and memory are measured, by kind of method; the contract's own by default.
        suite: Suite of the smoke run; the micro suite by default.
        seconds: Time for loading and all hooks of the checks before the smoke run.
    """

    sandbox: bool = True
    isolation: str = "auto"
    workers: int = 0
    scales: Mapping[str, tuple[tuple[int, ...], ...]] = field(default_factory=dict)
    suite: Suite | None = None
    seconds: float = CHECK_SECONDS


def check_submission(
    submission: MethodSource, score: Scorer | None, reporter: Reporter, options: Options | None = None
) -> CheckReport:
    """Return the report of a check.

    Args:
        submission: The method.
        score: Counts the smoke run's scores from its rows; ``None`` for no smoke run.
        reporter: Shows progress.
        options: How to check.

    Raises:
        SandboxUnavailableError: This machine offers no isolation, and the sandbox is not switched off.
        StorageError: The smoke run's rows cannot be written.
    """
    return _Checking(submission, options or Options(), reporter).report(score)


def check_contract(
    submission: MethodSource,
    *,
    isolation: str = "auto",
    reporter: Reporter | None = None,
    scales: Mapping[str, tuple[tuple[int, ...], ...]] | None = None,
) -> CheckReport:
    """Return the report of a check in the sandbox without the smoke run.

    Args:
        submission: The method.
        isolation: Name of the way of isolating, or ``auto``.
        reporter: Shows progress; nothing is shown by default.
        scales: Sizes at which time and memory are measured, by kind of method; the contract's own by default.

    Raises:
        SandboxUnavailableError: This machine offers no isolation.
    """
    reporter = reporter or Reporter(Console(file=StringIO()))
    return check_submission(submission, None, reporter, Options(isolation=isolation, scales=scales or {}))


class _Checking:
    """One check under way."""

    def __init__(self, submission: MethodSource, options: Options, reporter: Reporter) -> None:
        self._submission, self._options, self._reporter = submission, options, reporter
        self._isolation = find_isolation(options.isolation) if options.sandbox else None
        self._allowance = Allowance(options.seconds)
        self._title = ""
        self._examination = Examination()
        self._smoke: list[SmokeScore] = []

    def report(self, score: Scorer | None) -> CheckReport:
        began = time.monotonic()
        findings = list(self._findings(score))
        here = self._isolation
        return CheckReport(
            kind=self._submission.kind.name,
            id=self._submission.id,
            title=self._title,
            origin=self._submission.origin,
            source_digest=self._submission.digest,
            protocol_version=PROTOCOL_VERSION,
            package_version=__version__,
            environment=environment(),
            created_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            isolation=Isolation(name=here.name, version=here.version) if here else Isolation(name="none"),
            warnings=() if here else (f"{NO_ISOLATION} ({platform.system()})",),
            findings=tuple(findings),
            shapes=tuple(self._examination.shapes),
            metered=self._examination.metered,
            smoke=tuple(self._smoke),
            seconds=round(time.monotonic() - began, 3),
            passed=passed(findings),
        )

    def _findings(self, score: Scorer | None) -> Iterator[Finding]:
        try:
            subject, large = (self._subject(limits) for limits in (_SMALL_CALL, _LARGE_CALL))
        except SandboxUnavailableError:
            raise
        except FedSafetyError as error:
            yield _not_loaded(error)
            yield from (_left_out(part, "the method cannot be loaded") for part in list(Part)[1:])
            return
        self._title = subject.entry.info.title
        kind = self._submission.kind.name
        contract = CONTRACTS[kind]
        self._examination = contract.examine(subject, large, self._options.scales.get(kind, contract.scales))
        kept = True
        # One thread where the numbers are few, as in a run; more would only wait for each other.
        with threads(1), self._reporter.step("checks", len(self._examination.checks)) as step:
            for finding in perform(self._examination.checks, subject, step.advance, self._options.seconds):
                kept &= finding.verdict is not Verdict.FAILED
                yield finding
        if score is not None and not kept:
            yield _left_out(Part.SMOKE, "what was found above comes first")
        elif score is not None:
            yield from self._smoke_findings(score)

    def _subject(self, limits: Limits) -> Subject[Any, Any]:
        return Subject(self._entry(limits), tuple(path for _, path in self._submission.files))

    def _entry(self, limits: Limits) -> Entry[Any, Any]:
        if self._isolation is None:
            adopt((self._submission,), isolated=False)
            return self._submission.kind.registry.get(self._submission.id)
        return STAND_INS[self._submission.kind.name](self._submission, limits, self._isolation, self._allowance)

    def _smoke_findings(self, score: Scorer) -> list[Finding]:
        options = self._options
        isolation = self._isolation.name if self._isolation else ""
        self._reporter.say(f"smoke run on development seed {SMOKE_SEED}, which no scored row uses")
        try:
            self._smoke, findings = smoke_run(
                self._submission,
                self._reporter,
                score,
                isolation=isolation,
                workers=options.workers,
                suite=options.suite,
            )
        except (StorageError, SandboxUnavailableError):
            raise
        except FedSafetyError as error:  # a worker that died of the method, a plan that cannot be made
            return [
                Finding(
                    part=Part.SMOKE,
                    check="smoke_run",
                    checked="the method runs from training to judged answers",
                    verdict=Verdict.FAILED,
                    found=reason_of(error),
                    remedy="mend what the text names; `fedsafety run` stops for the same reason",
                )
            ]
        return findings


def _not_loaded(error: FedSafetyError) -> Finding:
    return Finding(
        part=Part.METADATA,
        check="loads",
        checked="the file can be imported and registers a method with complete metadata",
        verdict=Verdict.FAILED,
        found=reason_of(error),
        remedy=_FIRST,
    )


def _left_out(part: Part, why: str) -> Finding:
    return Finding(
        part=part,
        check="not_run",
        checked=f"everything of the {part.value} part" if part is not Part.SMOKE else "the smoke run",
        verdict=Verdict.NOT_RUN,
        found=f"left out because {why}" if not why.startswith("what") else f"left out: {why}",
    )
