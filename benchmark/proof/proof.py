"""What the real-data check runs, step by step, each by the command that a user would type."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Final

from benchmark.errors import FedSafetyError, InputsMissingError, UsageError
from benchmark.execution.plan import make_plan
from benchmark.generation.select import choose_engine
from benchmark.progress import Reporter, duration
from benchmark.proof import model
from benchmark.proof.findings import Evidence, Finding, examine
from benchmark.proof.model import Recipe, make_models
from benchmark.records.store import Store
from benchmark.suites.suite import Suite, find_suite
from tasks.hub.overlaps import suite_overlaps
from tasks.hub.roots import DATA_ROOT, MODEL_ROOT

TASK: Final = "plumbing_gsm8k"
"""Task of lm-evaluation-harness that is scored on a local file."""
_DOCUMENTS: Final = "gsm8k/test.jsonl"
_GRADING: Final = ("mt_bench/judge_prompts.jsonl", "mt_bench/reference_answer_gpt-4.jsonl")
"""What judge ``mt_bench`` reads beside the questions."""


@dataclass(frozen=True)
class Size:
    """How much is run.

    Attributes:
        suite: The suite's file, with its tier behind a colon.
        recipe: What the model is made by.
        documents: Documents of the task of lm-evaluation-harness.
    """

    suite: str
    recipe: Recipe
    documents: int


_SUITE: Final = str(resources.files("benchmark.proof") / "suite.yaml")
FULL: Final = Size(_SUITE, model.FULL, documents=8)
QUICK: Final = Size(f"{_SUITE}:quick", model.QUICK, documents=2)


def prove(data_root: Path, work: Path, size: Size, engine: str, reporter: Reporter) -> list[Finding]:
    """Run everything, examine what is there afterwards, and report both; what a former call finished is kept.

    Args:
        data_root: Folder of the data files.
        work: Folder of models, rows and page.
        size: How much is run.
        engine: Name for :func:`benchmark.generation.select.choose_engine`.
        reporter: Shows progress and findings.

    Raises:
        UsageError: The data root is no folder, or ``work`` lies among committed results.
        InputsMissingError: Files are not in the data root; names them all.
        FedSafetyError: A command failed; what it said stands above.
    """
    began = time.perf_counter()
    suite = find_suite(size.suite)
    data_root, work = data_root.absolute(), work.absolute()
    _check_places(suite, data_root, work)
    committed = _committed()
    with _environment(DATA_ROOT, str(data_root)):
        assert suite.data is not None
        reporter.say("prompts that data sets share:")
        reporter.say(suite_overlaps(suite.data, {each.id: each.data for each in suite.scenarios if each.data}))
        models = make_models(suite, size.recipe, work / "models", reporter)
        made = time.perf_counter()
        runs, site, none = work / "runs", work / "site", work / "nothing-committed"
        none.mkdir(parents=True, exist_ok=True)
        with _environment(MODEL_ROOT, str(models)):
            task = ("--task", TASK, "--task-path", _task(data_root, work), "--task-limit", size.documents)
            _fedsafety("run", "--suite", size.suite, "--runs", runs, "--engine", engine, *task)
            answered = time.perf_counter()
            _fedsafety("leaderboard", "--suite", suite.id, "--results", none, "--runs", runs, "--out", site)
            choice = choose_engine(engine)
            plan = make_plan(suite, choice.name)
            evidence = Evidence(plan, Store(runs), choice, site / "index.html", TASK, size.documents, work / "refused")
            findings = [*examine(evidence, reporter), _results_are_untouched(committed)]
    for finding in findings:
        reporter.say(f"{'holds ' if finding.holds else 'FAILED'}  {finding.claim}: {finding.numbers}")
    ended = time.perf_counter()
    reporter.say(
        f"{sum(f.holds for f in findings)} of {len(findings)} claims hold, after {duration(ended - began)}: model "
        f"{duration(made - began)}, federation, answers, verdicts and task {duration(answered - made)}, page and "
        f"examination {duration(ended - answered)}; the page is {site / 'index.html'}"
    )
    return findings


def _check_places(suite: Suite, data_root: Path, work: Path) -> None:
    if not data_root.is_dir():
        raise UsageError(f"the data root {data_root} is no folder; name the folder of the data files by --data-root")
    if _RESULTS.is_dir() and work.is_relative_to(_RESULTS):
        raise UsageError(
            f"{work} lies among committed results, where nothing of this check belongs; name another --work"
        )
    assert suite.data is not None
    sources = [*suite.data.pools.values(), *(probe.source for probe in suite.data.probes)]
    graded = _GRADING if "mt_bench" in suite.judges else ()
    wanted = dict.fromkeys([*(source.local for source in sources), _DOCUMENTS, *graded])
    missing = [name for name in wanted if not (data_root / name).exists()]
    if missing:
        raise InputsMissingError(
            f"{len(missing)} of {len(wanted)} files are not in the data root {data_root}: {', '.join(missing)}; put "
            f"them there under these names (benchmark/proof/suite.yaml has the repositories that they come from)"
        )


_RESULTS: Final = Path(__file__).resolve().parents[2] / "results"
"""Committed rows of the checkout, where there is one."""


def _committed() -> dict[str, int]:
    """Return name and time of change of each committed file."""
    return {str(path): path.stat().st_mtime_ns for path in sorted(_RESULTS.rglob("*.parquet"))}


def _results_are_untouched(before: dict[str, int]) -> Finding:
    return Finding(
        "no row went to results/", _committed() == before, f"{len(before)} committed files are what they were"
    )


def _task(data_root: Path, work: Path) -> Path:
    """Write the task's YAML file with this machine's places; return its folder."""
    folder = work / "lm_eval"
    folder.mkdir(parents=True, exist_ok=True)
    text = (resources.files("benchmark.proof") / "gsm8k.yaml").read_text(encoding="utf-8")
    places = {"DATA_ROOT/gsm8k/test.jsonl": data_root / _DOCUMENTS, "WORK/datasets": work / "datasets"}
    for name, place in places.items():
        text = text.replace(name, json.dumps(str(place)))
    (folder / f"{TASK}.yaml").write_text(text, encoding="utf-8")
    return folder


def _fedsafety(*arguments: object) -> None:
    """Run the console command; it shows its own progress.

    Raises:
        FedSafetyError: It failed.
    """
    command = [sys.executable, "-P", "-m", "benchmark.cli.main", *map(str, arguments)]
    status = subprocess.run(command, check=False).returncode  # noqa: S603 - our own command
    if status:
        raise FedSafetyError(
            f"`fedsafety {arguments[0]}` ended with status {status} and says above why; what is finished is kept, and "
            f"the same command goes on from there"
        )


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """Set a variable for this process and those it starts."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
