"""The command line ``fedsafety``: its program, ``judge`` and ``publish``, and the registration of the other commands.

Commands that read rows are in :mod:`leaderboard.commands`. The commands of a submission are in
:mod:`benchmark.cli.check` and :mod:`benchmark.cli.verify`.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from pathlib import Path
from typing import Annotated

if __name__ == "__main__":  # python -m benchmark.cli.main
    from benchmark.cli.start import main as start

    start()
    sys.exit()

import typer

from benchmark import PROTOCOL_VERSION, __version__
from benchmark.cli import align, attack_search, check, doctor, listing, reading, real, run, verify
from benchmark.cli.shared import (
    DataRootOption,
    EngineOption,
    ModelRootOption,
    Program,
    Roots,
    RunsOption,
    SuiteOption,
    choose_engine,
    console,
    errors,
    resumable,
)
from benchmark.errors import FedSafetyError, UsageError
from benchmark.stop import stop_status, stoppable
from leaderboard import commands

app = Program(
    name="fedsafety",
    help="Benchmark of defenses against safety attacks in federated instruction tuning.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
# Silence PyTorch's warnings about memory binding, because they would land inside the progress display.
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

ResultsOption = Annotated[Path, typer.Option("--results", help="Folder of committed rows.")]


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""Errors of an output that takes no more."""


def main() -> None:
    """Run the command line; exits 2 on wrong usage, 1 on failure, 130 on Ctrl-C."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal may lack characters of a name
    with stoppable():
        failure = _run_app()
        status = stop_status() or failure
    sys.exit(status)


def _run_app() -> int:
    """Run the command line and return its exit status."""
    try:
        app()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except FedSafetyError as error:
        errors.say(f"error: {error}", "red")
        return error.exit_status
    except OSError as error:
        if error.errno not in _FULL:
            raise
        # Python writes the rest of the output at its end, which would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        place = error.filename or "the output"
        errors.say(f"error: cannot write {place}: {error.strerror}; free space and run the same command again", "red")
        return 1
    return 0


def _print_version(requested: bool) -> None:
    if requested:
        console.say(f"fedsafetybench {__version__}, protocol {PROTOCOL_VERSION}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Benchmark of defenses against safety attacks in federated instruction tuning."""
    del version


listing.register(app)
run.register(app)
attack_search.register(app)


@app.command()
def judge(
    suite: SuiteOption = "micro",
    judge_id: Annotated[
        list[str] | None, typer.Option("--judge", help="Judge; repeatable. Default: the suite's.")
    ] = None,
    runs: RunsOption = Path("runs"),
    engine: EngineOption = "auto",
    data_root: DataRootOption = None,
    model_root: ModelRootOption = None,
) -> None:
    """Judge stored responses that lack verdicts. Nothing is trained or generated anew."""
    from benchmark.execution.judging import Judging, judge_responses, responses_to
    from benchmark.execution.readiness import fetch_sources
    from benchmark.execution.worlds import open_world
    from benchmark.judges.base import judges
    from benchmark.progress import Reporter
    from benchmark.records.store import Store
    from benchmark.suites.suite import find_suite

    Roots(data_root, model_root).use()
    chosen = find_suite(suite)
    names = tuple(judge_id or chosen.judges)
    for name in names:
        judges.get(name)
    store, reporter = Store(runs), Reporter(console)
    probes = chosen.data.probes if chosen.data else ()
    with resumable():
        models = [chosen.models[name] for name in names if name in chosen.models]
        fetch_sources(models, [probe.source for probe in probes], reporter)
    world = open_world(chosen)
    keys = responses_to(world.probes(), store)
    if not keys:
        raise UsageError(
            f"{runs} holds no responses to the probes of suite {chosen.id!r}; make some with 'fedsafety run', or name "
            f"the folder with --runs"
        )
    judging = Judging(world, store, choose_engine(engine), reporter, chosen.compute)
    with resumable():
        done = judge_responses(judging, keys, names)
    console.say(f"{done} response sets judged; {len(keys) * len(names) - done} had their verdicts already")


for module in (commands, real, align, check, verify):
    module.register(app)


@app.command()
def publish(
    suite: Annotated[str, typer.Option("--suite", help="Suite id.")] = "micro",
    runs: RunsOption = Path("runs"),
    results: ResultsOption = Path("results"),
) -> None:
    """Copy finished rows of your runs into the committed results, as new immutable files."""
    from benchmark.records.publish import other_protocols
    from benchmark.records.publish import publish as publish_rows
    from benchmark.records.store import Store
    from benchmark.records.withheld import extents_of
    from benchmark.suites.suite import find_suite, suites

    # The installed suite is asked, too: a run's catalog may be older than the suite's rule on texts.
    extents = extents_of(find_suite(suite).model_dump(mode="json")) if suite in suites.names() else {}
    added = publish_rows(Store(runs), results, suite, extents)
    console.say(", ".join(f"{count} {table}" for table, count in added.items()) + f" rows added to {results / suite}")
    if left_out := other_protocols(Store(runs), suite):
        console.say(left_out)


reading.register(app)
doctor.register(app)
