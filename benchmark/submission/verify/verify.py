"""Verification of a bundle: it is checked, judged again and run again, and nothing in it is trusted.

The processes of the verifier import nothing of the submission; its code runs in sandboxes only. A failed step ends the
verification with a report and without rows. A rung states how much of the claim was repeated, and nothing else:

- *checked*: the bundle is whole, its source makes its rows under this protocol, the method keeps its contract, and the
  judges give these verdicts to these answers;
- *sampled*: a random sample of cells was run again, on the committed probes and on probes drawn from a fresh seed, and
  the claimed scores agree with it (:mod:`benchmark.submission.verify.consistency`);
- *reproduced*: every claimed cell was run again, and the rows are the verifier's own.

A verification that was stopped continues with the same sample when it is started again.
"""

from __future__ import annotations

import datetime
import json
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from benchmark import PROTOCOL_VERSION, __version__
from benchmark.errors import FedSafetyError, SandboxUnavailableError, StorageError, UsageError, unknown_name
from benchmark.execution.plan import CellPlan
from benchmark.generation.select import EngineChoice, choose_engine
from benchmark.keys import source_files
from benchmark.methods.source import MethodSource
from benchmark.progress import Reporter
from benchmark.records.environment import environment
from benchmark.records.schemas import READABLE_VERSIONS, RUNG_CHECKED, RUNG_CLAIMED, RUNG_REPRODUCED, RUNG_SAMPLED
from benchmark.records.store import Store
from benchmark.records.withheld import Extents
from benchmark.sandbox.adopt import adopt
from benchmark.sandbox.isolation import find_isolation
from benchmark.sandbox.untrusted import printable
from benchmark.submission.bundle.bundle import BUNDLED, OPTIONAL, Bundle, read_bundle
from benchmark.submission.bundle.claim import own_catalog, plan_of
from benchmark.submission.contract.check import check_contract
from benchmark.submission.verify.consistency import Finding
from benchmark.submission.verify.identity import check_identity
from benchmark.submission.verify.output import (
    check_place,
    claimed_tables,
    rerun_tables,
    verification_rows,
    write_output,
)
from benchmark.submission.verify.report import MEANING, Consistency, RerunCell, Step, StepResult, VerifyReport
from benchmark.submission.verify.rerun import Runner
from benchmark.submission.verify.rows import check_extent, check_forms, checked_cells
from benchmark.submission.verify.scores import claimed_cells, compare, run_again
from benchmark.submission.verify.verdicts import compare_withheld, judge_again
from benchmark.suites.suite import Suite, find_suite

LEVELS = (RUNG_CHECKED, RUNG_SAMPLED, RUNG_REPRODUCED)
DEFAULT_CELLS = 6
"""Units (a scenario, a pipeline, a seed) that are run again for the rung ``sampled``."""


@dataclass(frozen=True)
class Options:
    """Choices of a verifier.

    Attributes:
        level: Rung to reach: ``checked``, ``sampled`` or ``reproduced``.
        results: Folder of committed rows, with those of submissions below.
        out: Folder of the verified submission; ``None`` for ``verified/<id>``.
        suite: Path of a suite that has no registered id; empty for the suite that the bundle names.
        seed: Seed of sample and fresh probes; ``None`` for a random one, which is recorded.
        cells: Units to run again for the rung ``sampled``.
        isolation: Name of the way of isolating; ``auto`` for the best.
        replaces: Whether the bundle replaces an earlier bundle of the same id.
        work: Folder of unfinished verifications.
        workers: Training processes.
    """

    level: str = RUNG_SAMPLED
    results: Path = Path("results")
    out: Path | None = None
    suite: str = ""
    seed: int | None = None
    cells: int = DEFAULT_CELLS
    isolation: str = "auto"
    replaces: bool = False
    work: Path = Path("verifying")
    workers: int = 1


def verify(path: Path, options: Options, reporter: Reporter) -> VerifyReport:
    """Verify the bundle ``path``, write the folder of the submission if all steps pass, and return the report.

    Raises:
        UsageError: The level or bundle is unknown, or the folder to write holds other files.
        SandboxUnavailableError: This platform offers no isolation, so nothing can be verified.
        StorageError: A file cannot be written.
    """
    if options.level not in LEVELS:
        raise unknown_name("level of verification", options.level, LEVELS)
    isolation = find_isolation(options.isolation)
    if not path.exists():
        raise UsageError(
            f"there is no bundle {str(path)!r}; give the file that `fedsafety submit` wrote, or its folder"
        )
    run = _Verification(path, options, reporter, {"name": isolation.name, "version": isolation.version})
    with suppress(_FailedError):
        run.perform()
        run.write()
    if run.work is not None:
        shutil.rmtree(run.work, ignore_errors=True)
    return run.report()


class _FailedError(Exception):
    """A step failed and has been recorded."""


@dataclass
class _Verification:
    """State of one verification."""

    path: Path
    options: Options
    reporter: Reporter
    isolation: dict[str, str]
    began: float = field(default_factory=time.perf_counter)
    work: Path | None = None
    bundle: Bundle | None = None
    cells: Sequence[CellPlan] = ()
    tables: Mapping[str, pa.Table] = field(default_factory=dict)
    extents: Extents = field(default_factory=dict)
    steps: list[StepResult] = field(default_factory=list)
    contract: dict[str, Any] | None = None
    fresh_seed: int = -1
    reference: str = ""
    noted: Mapping[str, RerunCell] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def perform(self) -> None:
        """Take the steps of the level in order; record a failed step and stop."""
        level, reporter = self.options.level, self.reporter
        with self._step(Step.ARCHIVE) as record:
            self.bundle = bundle = read_bundle(self.path)
            claimed = {name: bundle.table(name) for name in (*BUNDLED, *OPTIONAL)}
            record(f"{len(bundle.content)} files with their digests; bundle {bundle.digest}")
        with self._step(Step.VERSIONS) as record:
            suite, choice = _suite_and_engine(bundle, self.options)
            record(f"protocol {PROTOCOL_VERSION}, suite {suite.id} version {suite.version}, engine {choice.name}")
        with self._step(Step.IDENTITY) as record:
            record(check_identity(bundle, self.options.results, replaces=self.options.replaces))
        check_place(self._out(bundle), bundle.manifest.id)
        self.work = work = self.options.work / bundle.digest
        with self._step(Step.KEYS) as record:
            submission = self._submission(bundle, work)
            rows = {row["cell_key"]: row for row in claimed["cells"].to_pylist()}
            manifest = bundle.manifest
            check_extent(list(rows.values()), suite)
            every = plan_of(submission, suite, rows.values(), manifest.generator, manifest.attack_params)
            self.extents = {probe.id.partition("/")[0]: probe.publish for probe in every.world.probes()}
            check_forms(claimed, self.extents)
            self.cells = checked_cells(every, claimed)
            plan = replace(every, cells=tuple(self.cells))
            record(f"{len(self.cells)} cells have the keys that this source makes, and all of their rows")
        with self._step(Step.CONTRACT) as record:
            record(self._check_contract(submission))
        judged = Store(work / "claimed")
        with self._step(Step.VERDICTS) as record:
            verdicts, found_again = judge_again(plan, claimed, judged, choice, reporter)
            record(found_again)
        catalog = own_catalog(submission, plan)
        self.tables = claimed_tables(claimed, verdicts, catalog)
        if level == RUNG_CHECKED:
            return
        everything = level == RUNG_REPRODUCED
        runs = Store(work / "runs")
        with self._step(Step.RERUN) as record:
            self.fresh_seed = self._seed(work)
            runner = Runner(runs, choice, reporter, self.options.workers, submission, self.options.isolation)
            done = claimed_cells(plan, rows, claimed["responses"], verdicts)
            units = self.options.cells
            found = run_again(plan, runner, done, seed=self.fresh_seed, units=units, everything=everything)
            self.noted, self.reference = found.noted, found.reference_name
            record(f"{len(found.noted)} of {len(done)} finished cells were run again, with seed {self.fresh_seed}")
        with self._step(Step.CONSISTENCY) as record:
            self.findings = compare(found)
            again = tuple(cell for cell in self.cells if cell.cell_key in self.noted)
            if failed := [finding.text for finding in self.findings if not finding.passed]:
                raise FedSafetyError("; ".join(failed))
            untested = sum(not finding.tested for finding in self.findings)
            record(
                f"{len(self.findings) - untested} tests of claimed against re-run scores"
                + (f"; {untested} not possible with so few cells" if untested else "")
                + compare_withheld(replace(plan, cells=again), claimed, runs)
            )
        if everything:
            self.tables = rerun_tables(runs, self.cells, plan.probe_set, catalog)

    def write(self) -> None:
        """Write the folder of the verified submission."""
        assert self.bundle is not None
        report = self.report()
        rows = verification_rows(report, self.cells, self.noted)
        write_output(self._out(self.bundle), self.bundle, self.tables, rows, report, self.extents)

    def report(self) -> VerifyReport:
        """Return the report of the steps so far."""
        manifest = self.bundle.manifest if self.bundle else None
        failed = next((result for result in self.steps if result.verdict == "failed"), None)
        rung = RUNG_CLAIMED if failed else self.options.level
        taken = {result.step for result in self.steps}
        return VerifyReport(
            bundle=self.bundle.digest if self.bundle else "",
            file=self.path.name,
            kind=manifest.kind if manifest else "",
            id=manifest.id if manifest else "",
            suite=manifest.suite if manifest else "",
            level=self.options.level,
            rung=rung,
            reason=f"{failed.step.value}: {failed.found}" if failed else self._why_not_higher(rung),
            source_digest=manifest.source_digest if manifest else "",
            claimed_cells=len(self.cells),
            fresh_seed=self.fresh_seed,
            isolation=self.isolation,
            reference=self.reference,
            steps=(*self.steps, *(StepResult(step=step, verdict="not_run") for step in Step if step not in taken)),
            cells=tuple(self.noted.values()),
            consistency=tuple(Consistency(**vars(finding)) for finding in self.findings),
            notices=tuple(printable(notice) for notice in manifest.notices) if manifest else (),
            contract=self.contract,
            protocol_version=PROTOCOL_VERSION,
            package_version=__version__,
            environment=json.loads(environment()),
            created_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            seconds=round(time.perf_counter() - self.began, 3),
        )

    def _why_not_higher(self, rung: str) -> str:
        if rung == RUNG_CHECKED:
            return "no cell was run again"
        coverage = f"{len(self.noted)} of {len(self.cells)} cells were run again; the rows are the submitter's"
        return coverage if rung == RUNG_SAMPLED else ""

    def _out(self, bundle: Bundle) -> Path:
        return self.options.out or Path("verified") / bundle.manifest.id

    @contextmanager
    def _step(self, step: Step) -> Iterator[Callable[[str], None]]:
        """Record a step with its finding, or with the error that stopped it."""
        began = time.perf_counter()
        found: list[str] = []
        problem: Exception | None = None
        try:
            yield found.append
        except (StorageError, SandboxUnavailableError):
            raise
        except FedSafetyError as error:
            problem, found = error, [str(error)]
        except Exception as error:
            if step not in _OF_STRANGERS:
                raise
            problem, found = error, [f"it cannot be read ({type(error).__name__}: {error})"]
        verdict: Literal["passed", "failed"] = "failed" if problem else "passed"
        # A stranger may have written the text: it must not control the terminal or fill the log.
        text, seconds = printable("".join(found), _LONGEST_FINDING), round(time.perf_counter() - began, 3)
        self.steps.append(StepResult(step=step, verdict=verdict, found=text, seconds=seconds))
        self.reporter.say(f"{step.value}: {verdict}. {text}" + (f"\nThat means: {MEANING[step]}" if problem else ""))
        if problem:
            raise _FailedError from problem

    def _submission(self, bundle: Bundle, work: Path) -> MethodSource:
        """Return the submission; this process adopts a stand-in and imports none of its code."""
        shutil.rmtree(work / "source", ignore_errors=True)
        submission = bundle.unpack_source(work / "source")
        if submission.digest != bundle.manifest.source_digest:
            raise FedSafetyError(
                f"the source has the digest {submission.digest}, but the bundle names {bundle.manifest.source_digest}: "
                f"other source made its rows"
            )
        reached = source_files(submission.module, submission.files)
        if unread := sorted(dict(submission.files).keys() - reached.keys()):
            raise FedSafetyError(
                f"module {unread[0]!r} is not one that {submission.module!r} imports by name, so that no digest covers "
                f"it; import it where it is used, or leave it out"
            )
        adopt([submission], isolated=True, isolation=self.options.isolation)
        info = submission.kind.registry.get(submission.id).info.model_dump(mode="json")
        if differing := sorted(name for name in info if info[name] != bundle.manifest.info.get(name)):
            raise FedSafetyError(
                f"its source registers another {differing[0]} than the manifest names: {info[differing[0]]!r} and "
                f"{bundle.manifest.info.get(differing[0])!r}; metadata must be the same at every import"
            )
        return submission

    def _check_contract(self, submission: MethodSource) -> str:
        report = check_contract(submission, isolation=self.options.isolation)
        self.contract = report.model_dump(mode="json")
        failed = [finding for finding in report.findings if finding.verdict == "failed"]
        if failed:
            raise FedSafetyError("; ".join(f"{finding.checked}: {finding.found}" for finding in failed))
        return f"{len(report.findings)} checks"

    def _seed(self, work: Path) -> int:
        """Return the seed of this verification; a verification that is started again keeps its seed."""
        if self.options.seed is not None:
            return self.options.seed
        state = work / "seed.json"
        if not state.is_file():
            # Random, so that the author of the bundle cannot foresee the sample.
            Store(work).write_json(state, {"seed": secrets.randbits(62)})
        return int(json.loads(state.read_text())["seed"])


_LONGEST_FINDING = 2000
_OF_STRANGERS = (Step.ARCHIVE, Step.VERSIONS, Step.IDENTITY, Step.KEYS)
"""Steps that read a stranger's files: an exception in them is a finding about the bundle."""


def _suite_and_engine(bundle: Bundle, options: Options) -> tuple[Suite, EngineChoice]:
    manifest = bundle.manifest
    protocol, schema = manifest.protocol_version, str(manifest.schema_version)
    if protocol != PROTOCOL_VERSION or schema not in READABLE_VERSIONS:
        raise FedSafetyError(
            f"its rows were made under protocol {protocol} and schema {schema}, but this release verifies "
            f"protocol {PROTOCOL_VERSION} and schema {' or '.join(READABLE_VERSIONS)}; run `fedsafety run` and "
            f"`fedsafety submit` again with this release"
        )
    suite = find_suite(options.suite or manifest.suite)
    if (suite.id, suite.version) != (manifest.suite, manifest.suite_version):
        raise FedSafetyError(
            f"its rows are of suite {manifest.suite!r} version {manifest.suite_version!r}, but this verifier has "
            f"{suite.id!r} version {suite.version!r}"
        )
    return suite, choose_engine(manifest.generator)
