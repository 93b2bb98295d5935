"""The commands that make a bundle of a submission and that verify one: ``fedsafety submit | verify``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from benchmark.cli.shared import console, errors, resumable
from benchmark.errors import FedSafetyError, UsageError
from benchmark.screen import Fitted

if TYPE_CHECKING:
    from benchmark.submission.verify.report import VerifyReport

SuiteOption = Annotated[str, typer.Option("--suite", help="A bundled suite's id, or the path of a suite YAML file.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command("submit")(submit_command)
    app.command("verify")(verify_command)


def submit_command(
    method: Annotated[
        str, typer.Argument(help="Registered id, path of a Python file, or id of a file in this folder.")
    ],
    suite: SuiteOption = "micro",
    runs: Annotated[Path, typer.Option("--runs", envvar="FEDSAFETY_RUNS", help="Folder of your own runs.")] = Path(
        "runs"
    ),
    out: Annotated[Path | None, typer.Option("--out", help="File to write. Default: <id>.zip.")] = None,
    check_report: Annotated[
        Path | None, typer.Option("--check-report", help="JSON file of `fedsafety check`, to go with it.")
    ] = None,
    author: Annotated[str, typer.Option("--author", help="Who made it; left out if not given.")] = "",
    licence: Annotated[str, typer.Option("--licence", help="Licence of the source; left out if not given.")] = "",
) -> None:
    """Make one bundle of a method's source and of the rows that you have run of it."""
    from benchmark.methods.source import find_method
    from benchmark.records.store import Store
    from benchmark.submission.bundle.submit import submit
    from benchmark.suites.suite import find_suite

    submission = find_method(method)
    place = out or Path(f"{submission.id}.zip")
    if not place.parent.is_dir():
        raise UsageError(f"there is no folder {str(place.parent)!r} to write {place.name} to; make it, or name another")
    bundle = submit(
        submission,
        find_suite(suite),
        Store(runs),
        place,
        check_report=check_report,
        author=author,
        licence=licence,
    )
    manifest = bundle.manifest
    for notice in manifest.notices:
        errors.say(f"notice: {notice}", "yellow")
    console.say(
        f"{place}: {manifest.kind} {manifest.id}, {manifest.cells} cells of {len(manifest.scenarios)} scenarios and "
        f"{len(manifest.seeds)} seeds; bundle {bundle.digest}"
    )
    console.say(f"try what a verifier does: fedsafety verify {place}")


def verify_command(
    bundle: Annotated[Path, typer.Argument(help="File that `fedsafety submit` wrote, or the folder it unpacks to.")],
    level: Annotated[str, typer.Option("--level", help="Rung to reach: checked, sampled or reproduced.")] = "sampled",
    results: Annotated[
        Path | None,
        typer.Option("--results", help="Folder of committed rows. Default: results/ here, else the checkout's."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of the verified rows. Default: verified/<id>.")
    ] = None,
    suite: Annotated[str, typer.Option("--suite", help="Path of the suite, if it is none of the known ones.")] = "",
    seed: Annotated[
        int | None,
        typer.Option(min=0, max=2**62, help="Seed of sample and fresh probes. Default: a random one, recorded."),
    ] = None,
    cells: Annotated[
        int, typer.Option("--cells", min=1, help="Units (scenario, pipeline, seed) to run again for 'sampled'.")
    ] = 6,
    json_file: Annotated[Path | None, typer.Option("--json", help="File for the report as JSON.")] = None,
    isolation: Annotated[
        str, typer.Option("--isolation", help="Way of isolating: auto, bubblewrap or namespaces.")
    ] = "auto",
    replaces: Annotated[
        bool, typer.Option("--replaces", help="The bundle takes the place of an earlier one of its id.")
    ] = False,
    work: Annotated[Path, typer.Option("--work", help="Folder of unfinished verifications.")] = Path("verifying"),
    workers: Annotated[
        int, typer.Option(min=0, help="Training processes; 0 for one per processor, or as many as memory holds.")
    ] = 0,
) -> None:
    """Verify a bundle: check it, judge it again, run it again in a sandbox, and say which rung it has reached.

    Nothing of it is trusted or imported. Exits 1 and writes no rows if a step fails.
    """
    from benchmark.execution.run import default_workers
    from benchmark.progress import Reporter
    from benchmark.submission.verify.verify import Options, verify
    from leaderboard.commands import results_folder

    options = Options(
        level=level,
        results=results_folder(results) or Path("results"),
        out=out,
        suite=suite,
        seed=seed,
        cells=cells,
        isolation=isolation,
        replaces=replaces,
        work=work,
        workers=workers or default_workers(),
    )
    with resumable():
        report = verify(bundle, options, Reporter(console))
    if json_file is not None:
        report.write(json_file)
    _show(report)
    failed = report.failed
    if failed is not None:
        raise FedSafetyError(f"{bundle} does not pass the step {failed.step.value!r}: {failed.found}")
    place = out or Path("verified") / report.id
    console.say(f"{report.kind} {report.id}: {report.rung}; rows are in {place}")
    if report.reason:
        console.say(f"not higher, since {report.reason}")


def _show(report: VerifyReport) -> None:
    table = Table(box=None, show_header=True, header_style="bold")
    for name in ("step", "verdict", "seconds"):
        table.add_column(name, no_wrap=True)
    for step in report.steps:
        table.add_row(step.step.value, step.verdict.replace("_", " "), f"{step.seconds:.1f}" if step.seconds else "")
    console.print(Fitted(table, names=2))
    for test in report.consistency:
        mark = "" if test.passed else "FAILED "
        console.say(f"{mark}{test.test}: {test.text}")
    for notice in report.notices:
        console.say(f"notice: {notice}")
