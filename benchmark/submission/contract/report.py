"""The report of a check, for machines: what was checked, what was found, how to mend it, what it cost."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from benchmark.errors import FedSafetyError, UsageError

REPORT_VERSION: Final = 1
"""Changes when a field is removed or changes its meaning; a new field does not change it."""


class Part(StrEnum):
    """The parts of a check, in their order."""

    METADATA = "metadata"
    CONTRACT = "contract"
    ROBUSTNESS = "robustness"
    SMOKE = "smoke"


class Verdict(StrEnum):
    """How one thing that was checked came out."""

    PASSED = "passed"
    WARNING = "warning"
    """Worth knowing; does not make the check fail."""
    FAILED = "failed"
    NOT_APPLICABLE = "not_applicable"
    """Outside the method's declared condition, or of no meaning for it."""
    NOT_RUN = "not_run"
    """Left out because something before it failed or the time was spent."""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Finding(_Model):
    """One thing that was checked."""

    part: Part
    """Part of the check that it belongs to."""
    check: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    """Stable name of what was checked."""
    checked: str
    """What was checked, in words."""
    verdict: Verdict
    """How it came out."""
    found: str = ""
    """What was found."""
    remedy: str = ""
    """How to mend it; empty if there is nothing to mend."""


class ShapeCost(_Model):
    """Time and memory of one aggregation, or of one crafting of updates, at one shape."""

    participants: int
    """Updates n in the round; for an attack the malicious ones."""
    declared_malicious: int
    """Declared bound f; 0 for an attack."""
    dimension: int
    """Numbers d in an update."""
    verdict: Verdict
    """Whether it worked."""
    reason: str = ""
    """Why not, if it did not."""
    seconds: float | None = None
    """Wall time of the hook; where it runs apart, with the transfer of updates and answer."""
    peak_memory_bytes: int | None = None
    """Most memory that the process held, interpreter and updates included; none if the platform reports none."""
    updates_bytes: int
    """Size of the updates alone."""


class SmokeScore(_Model):
    """Scores of one cell of the smoke run; on one seed they show only that the method runs and has an effect."""

    scenario: str
    """Scenario id."""
    attack: str
    """Attack id; ``none`` for the un-attacked twin."""
    defense: str
    """Defense id."""
    own: bool
    """Whether the checked method takes part."""
    status: str
    """``done``, ``failed`` or ``not_applicable``."""
    reason: str = ""
    """Why it is not done."""
    safety: float | None = None
    """Share (0 to 1) of harmful requests answered harmlessly, as the leaderboard counts it."""
    utility: float | None = None
    """Utility (0 to 1), as the leaderboard counts it."""
    over_refusal: float | None = None
    """Share (0 to 1) of benign look-alikes refused."""
    costs: dict[str, float] = Field(default_factory=dict)
    """Metered use of server tools, by name."""


class Isolation(_Model):
    """Where the method's code ran."""

    name: str
    """``bubblewrap``, ``namespaces``, or ``none``."""
    version: str = ""
    """Version of the tool that isolates."""


class CheckReport(_Model):
    """The whole report of ``fedsafety check``."""

    report_version: Literal[1] = REPORT_VERSION
    """Version of this format."""
    kind: str
    """``defense`` or ``attack``."""
    id: str
    """Registry id."""
    title: str = ""
    """Title from the metadata; empty if they could not be read."""
    origin: str
    """Where the method comes from."""
    source_digest: str
    """Digest of its normalised source; the same as in keys and catalogue rows."""
    protocol_version: str
    """Version of the federated protocol that it was checked against."""
    package_version: str
    """Version of this package."""
    environment: str
    """Versions and platform, JSON."""
    created_at: str
    """UTC time, ISO 8601."""
    isolation: Isolation
    """Where the method's code ran."""
    warnings: tuple[str, ...] = ()
    """Remarks on the check itself, for example that it ran without isolation."""
    findings: tuple[Finding, ...]
    """What was checked, in order."""
    shapes: tuple[ShapeCost, ...] = ()
    """Time and memory by shape."""
    metered: dict[str, float] = Field(default_factory=dict)
    """Use of server tools in one call of prepare and finalize on a small server."""
    smoke: tuple[SmokeScore, ...] = ()
    """Scores of the smoke run; one development seed, no score."""
    seconds: float
    """Wall time of the whole check."""

    passed: bool
    """Whether nothing failed."""

    @model_validator(mode="after")
    def _verdict_follows_findings(self) -> Self:
        if self.passed != passed(self.findings):
            raise ValueError(f"passed is {self.passed}, but the findings say {passed(self.findings)}")
        return self

    def write(self, path: Path) -> None:
        """Write the report as JSON, whole or not at all.

        Raises:
            FedSafetyError: The file cannot be written.
        """
        write_report(self, path, indent=2)


def write_report(report: BaseModel, path: Path, indent: int) -> None:
    """Write a report as JSON, whole or not at all.

    Raises:
        FedSafetyError: The file cannot be written.
    """
    beside = path.with_name(f".writing-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(report.model_dump_json(indent=indent) + "\n", encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise FedSafetyError(f"cannot write the report {path}: {error.strerror}; name another file") from error


def passed(findings: Iterable[Finding]) -> bool:
    """Return whether nothing failed."""
    return all(finding.verdict is not Verdict.FAILED for finding in findings)


def read_report(path: Path) -> CheckReport:
    """Return the report in a JSON file.

    Raises:
        UsageError: The file is missing or is not a report of this version.
    """
    try:
        text = path.read_text(encoding="utf-8")
        return CheckReport.model_validate_json(text)
    except OSError as error:
        raise UsageError(f"cannot read the report {path}: {error.strerror}; make one with `fedsafety check`") from error
    except (ValidationError, UnicodeDecodeError) as error:
        first = f"{error.errors()[0]['msg']}" if isinstance(error, ValidationError) else str(error)
        raise UsageError(
            f"{path} is no report of `fedsafety check`, version {REPORT_VERSION} ({first}); make one with "
            f"`fedsafety check METHOD --json {path}`"
        ) from error
