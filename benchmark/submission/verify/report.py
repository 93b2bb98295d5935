"""Report of a verification: each step with its finding, the cells that were run again, and the rung reached."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from benchmark.submission.contract.report import write_report


class Step(StrEnum):
    """The steps of a verification, in their order."""

    ARCHIVE = "archive"
    VERSIONS = "versions"
    IDENTITY = "identity"
    KEYS = "keys"
    CONTRACT = "contract"
    VERDICTS = "verdicts"
    RERUN = "rerun"
    CONSISTENCY = "consistency"


MEANING = {
    Step.ARCHIVE: "the file is not a bundle as it was packed: it is damaged, was changed, or was made to do harm",
    Step.VERSIONS: "the rows cannot be compared with this release's",
    Step.IDENTITY: "the name is taken",
    Step.KEYS: "the rows were not made by this source under this protocol, or were edited",
    Step.CONTRACT: "the method breaks the contract of every method",
    Step.VERDICTS: "the verdicts are not those that the judges give to these answers",
    Step.RERUN: "the method does not run here as it is claimed to have run",
    Step.CONSISTENCY: "the claimed scores are better than this method's",
}
"""Meaning of a failed step."""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class StepResult(_Model):
    """Outcome of one step."""

    step: Step
    """The step."""
    verdict: Literal["passed", "failed", "not_run"]
    """Its verdict; the steps after a failed step are not run."""
    found: str = ""
    """Its finding, in words."""
    seconds: float = 0.0
    """Wall time."""


class RerunCell(_Model):
    """One cell that was run again."""

    scenario: str
    """Scenario id."""
    defense: str
    """Pipeline as submitted."""
    stage: str
    """The pipeline up to the scored stage."""
    seed: int
    """Run seed."""
    same_answers: float
    """Share of answers to the committed probes that are equal word for word."""
    same_environment: bool
    """Whether the claimed row names this environment."""
    claimed: dict[str, float]
    """Claimed scores."""
    rerun: dict[str, float]
    """Scores of the re-run on the committed probes."""
    fresh: dict[str, float]
    """Scores of the re-run on fresh probes; empty where they were not asked."""


class Consistency(_Model):
    """One test of claimed against re-run scores."""

    test: str
    """``repeated``, ``fresh`` or ``seeds``."""
    metric: str
    """Score."""
    passed: bool
    """Whether the claim may stand."""
    difference: float
    """Lead of the claim, as a share of 1; negative if the claim is worse."""
    statistic: float
    """T."""
    threshold: float
    """The largest T that passes."""
    text: str
    """In words."""


class VerifyReport(_Model):
    """The whole report of ``fedsafety verify``."""

    report_version: Literal[1] = 1
    """Version of this format."""
    bundle: str = ""
    """SHA-256 of the bundle's manifest; empty if it has none that can be read."""
    file: str
    """Name of the bundle's file or folder."""
    kind: str = ""
    """``defense`` or ``attack``."""
    id: str = ""
    """Registry id."""
    suite: str = ""
    """Suite id."""
    level: str
    """Rung that the verifier chose."""
    rung: str
    """Rung that was reached; ``claimed`` if a step failed."""
    reason: str = ""
    """Why the rung is not higher; empty at the highest."""
    source_digest: str = ""
    """Digest of the normalised source."""
    claimed_cells: int = 0
    """Cells in the bundle."""
    fresh_seed: int = -1
    """Seed of the sample and of the fresh probes; -1 where nothing was run again."""
    isolation: dict[str, str]
    """How the submission's code was isolated: name and version."""
    reference: str = ""
    """The honest method that answered the same fresh probes."""
    steps: tuple[StepResult, ...]
    """Every step."""
    cells: tuple[RerunCell, ...] = ()
    """Every cell that was run again."""
    consistency: tuple[Consistency, ...] = ()
    """Every test of scores."""
    notices: tuple[str, ...] = ()
    """Missing and failed parts that the bundle names."""
    contract: dict[str, Any] | None = None
    """Report of the check that the verifier ran."""
    protocol_version: str
    """Protocol version of the verifier."""
    package_version: str
    """Version of this package."""
    environment: dict[str, Any]
    """Versions and platform of the verifier."""
    created_at: str
    """UTC time, ISO 8601."""
    seconds: float
    """Wall time of the whole verification."""

    @property
    def failed(self) -> StepResult | None:
        """The step that failed, if any."""
        return next((step for step in self.steps if step.verdict == "failed"), None)

    def write(self, path: Path) -> None:
        """Write the report as JSON, whole or not at all.

        Raises:
            FedSafetyError: The file cannot be written.
        """
        write_report(self, path, indent=1)
