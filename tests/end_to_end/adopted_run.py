"""Runs a suite with submitted methods in this process or in sandboxes; prints failures as JSON. Its own process."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from rich.console import Console

from benchmark.execution.plan import make_plan
from benchmark.execution.run import Run
from benchmark.execution.stages import run_plan
from benchmark.generation.select import choose_engine
from benchmark.methods.source import find_method
from benchmark.progress import Reporter
from benchmark.records.store import Store
from benchmark.sandbox.adopt import Strangers
from benchmark.suites.suite import find_suite


def main(mode: str, suite: str, runs: str, *arguments: str) -> None:
    """Run the files among ``arguments`` as submissions, and the pipelines among them."""
    submissions = tuple(find_method(argument) for argument in arguments if argument.endswith(".py"))
    pipelines = [argument for argument in arguments if not argument.endswith(".py")]
    strangers = Strangers(submissions, isolated=mode == "isolated")
    strangers.adopt()
    choice = choose_engine("transformers")
    plan = make_plan(find_suite(suite), choice.name, pipelines=pipelines)
    report = run_plan(Run(plan, Store(Path(runs)), choice, Reporter(Console(stderr=True)), 2, strangers))
    imported = [name for name in sys.modules if "e2e_" in name]
    print(json.dumps({"failed": dict(report.failed_cells), "imported": sorted(imported)}))  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
