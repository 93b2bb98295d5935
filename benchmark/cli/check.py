"""The commands that begin a submission: ``fedsafety new``, ``new-attack`` and ``check``."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmark.cli.shared import console, resumable
from benchmark.errors import SandboxUnavailableError

if TYPE_CHECKING:
    from benchmark.submission.contract.smoke import ScoredCell
    from benchmark.submission.scaffold import Scaffold

FolderOption = Annotated[Path, typer.Option("--folder", help="Where the files go; made if missing.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command("new")(new)
    app.command("new-attack")(new_attack)
    app.command("check")(check)


def new(
    name: Annotated[str, typer.Argument(help="Id of the defense: lower-case letters, digits, underscores.")],
    folder: FolderOption = Path(),
    hook: Annotated[
        list[str] | None,
        typer.Option(
            "--hook",
            "--stage",
            help="What it fills: prepare, aggregate, aggregate-with-server, finalize, serve; repeatable. "
            "Default: aggregate.",
        ),
    ] = None,
) -> None:
    """Write the first file of a defense, with its test. It runs at once and averages as FedAvg does.

    With the hook aggregate-with-server it averages the updates that agree with a gradient of the server.
    """
    from benchmark.submission.scaffold import new_defense

    _print_next(new_defense(name, folder, tuple(hook or ("aggregate",))), name, "")


def new_attack(
    name: Annotated[str, typer.Argument(help="Id of the attack: lower-case letters, digits, underscores.")],
    folder: FolderOption = Path(),
) -> None:
    """Write the first file of an attack, with its test. It runs at once and poisons as unaligned_data does."""
    from benchmark.submission.scaffold import new_attack as write_attack

    _print_next(write_attack(name, folder), name, "aligned_start")


def check(
    method: Annotated[str, typer.Argument(help="A registered id, a Python file, or the id of one that lies here.")],
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write the report as JSON; written when the check fails, too.")
    ] = None,
    sandbox: Annotated[
        bool,
        typer.Option("--sandbox/--no-sandbox", help="Without it the method's code runs with all your rights."),
    ] = True,
    isolation: Annotated[
        str, typer.Option(help="Way of isolating: auto, bubblewrap or namespaces.", show_default=True)
    ] = "auto",
    workers: Annotated[
        int, typer.Option(min=0, help="Training processes; 0 for one per processor, or as many as memory holds.")
    ] = 0,
) -> None:
    """Check a defense or an attack: metadata, contract, odd inputs, time and memory, and a smoke run.

    Exits 0 if nothing failed, 1 if something did, 2 on wrong usage.
    """
    from benchmark.methods.source import find_method
    from benchmark.progress import Reporter
    from benchmark.submission.contract.check import Options, check_submission
    from benchmark.submission.contract.printing import print_report

    submission = find_method(method)
    options = Options(sandbox=sandbox, isolation=isolation, workers=workers)
    try:
        with resumable("nothing is left behind"):
            report = check_submission(submission, _scored, Reporter(console), options)
    except SandboxUnavailableError as error:
        raise SandboxUnavailableError(
            f"{error} To check code that you trust all the same, add --no-sandbox; the report will say so."
        ) from error
    print_report(report, console)
    if json_file is not None:
        report.write(json_file)
        console.say(f"report for machines: {json_file}")
    if not report.passed:
        raise typer.Exit(1)


def _scored(runs: Path) -> Sequence[ScoredCell]:
    from leaderboard.rows.rows import load_rows
    from leaderboard.scores.cells import scores

    return scores(load_rows([], local=[runs]))


def _print_next(files: Scaffold, name: str, base: str) -> None:
    """Tell what was written and which commands come next."""
    here = files.in_project or files.method.parent.resolve() == Path.cwd()
    method = shlex.quote(name if here else str(files.method))
    console.say(f"wrote {files.method} and {files.test}; next:")
    scope = f"--attack {method} --base {base}" if base else f"--defense {method}"
    for command, purpose in (
        (f"{_python()} -m pytest {shlex.quote(str(files.test))}", "its own test; change it with the rule"),
        (f"fedsafety check {method}", "the contract, and a run on one seed"),
        (f"fedsafety run {scope} --suite micro", "its rows"),
        ("fedsafety leaderboard --diff", "what they would change on the board"),
        (f"fedsafety submit {method}", "a bundle for verification"),
    ):
        console.say(f"  {command:<60} {purpose}")


def _python() -> str:
    """Return the interpreter that has what the test needs, as short as it can be called here."""
    if (found := shutil.which("python")) and Path(found).parent == Path(sys.executable).parent:
        return "python"
    return shlex.quote(sys.executable)
