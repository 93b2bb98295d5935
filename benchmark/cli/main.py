"""The command line: ``fedsafety list | run | judge | publish | doctor``, and where the other commands come from.

Those that read rows are in :mod:`leaderboard.commands`; the way of a submission is in
:mod:`benchmark.cli.check` and :mod:`benchmark.cli.verify`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmark import PROTOCOL_VERSION, __version__
from benchmark.cli import check as commands_check
from benchmark.cli import real as commands_real
from benchmark.cli import verify as commands_verify
from benchmark.cli.real import (
    DataRootOption,
    ModelRootOption,
    examine_suite,
    print_forecast,
    refuse_if_too_large,
)
from benchmark.errors import FedSafetyError, SandboxUnavailableError, UsageError, unknown_name
from leaderboard import commands

if TYPE_CHECKING:
    from benchmark.prediction.measured import Prediction

app = typer.Typer(
    name="fedsafety",
    help="Benchmark of defenses against safety attacks in federated instruction tuning.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
# PyTorch's own warnings about memory binding would land inside the progress display.
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
console = Console()
errors = Console(stderr=True)

SuiteOption = Annotated[
    str,
    typer.Option(
        "--suite",
        help="A bundled suite's id or its tier's (paper_lite), or a suite YAML file (mine.yaml, mine.yaml:lite).",
    ),
]
RunsOption = Annotated[
    Path, typer.Option("--runs", envvar="FEDSAFETY_RUNS", help="Folder of your own runs; made if missing.")
]
ResultsOption = Annotated[Path, typer.Option("--results", help="Folder of committed rows.")]
EngineOption = Annotated[str, typer.Option("--engine", help="Generation engine: auto, vllm or transformers.")]


KINDS = ("attacks", "defenses", "scenarios", "axes", "suites", "judges", "tasks")


def main() -> None:
    """Run the command line; exits 2 on wrong usage, 1 on failure, 130 on Ctrl-C."""
    try:
        app()
    except FedSafetyError as error:
        errors.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(error.exit_status)


@contextmanager
def resumable() -> Iterator[None]:
    """Answer Ctrl-C in long work with what it means for the user."""
    try:
        yield
    except KeyboardInterrupt:
        errors.print("stopped; what is finished is kept, and the same command resumes", style="yellow")
        raise typer.Exit(130) from None


def _print_version(wanted: bool) -> None:
    if wanted:
        console.print(f"fedsafetybench {__version__}, protocol {PROTOCOL_VERSION}", highlight=False)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Benchmark of defenses against safety attacks in federated instruction tuning."""
    del version


@app.command("list")
def list_command(
    kind: Annotated[str, typer.Argument(help=f"One of {', '.join(KINDS)}; leave out for all.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON with all metadata.")] = False,
) -> None:
    """List what is registered: attacks, defenses, scenarios, sensitivity axes, suites, judges, tasks."""
    if kind and kind not in KINDS:
        raise unknown_name("kind", kind, KINDS)
    broken: list[str] = []
    content = {name: _listing(name, broken) for name in ([kind] if kind else KINDS)}
    if as_json:
        console.print_json(json.dumps(content))
    for name, entries in () if as_json else content.items():
        table = Table(title=name.capitalize(), title_justify="left", title_style="bold", expand=False)
        table.add_column("id", no_wrap=True)
        for column in _COLUMNS[name]:
            table.add_column(column.replace("_", " "))
        for entry in entries:
            table.add_row(entry["id"], *(str(entry[column]) for column in _COLUMNS[name]))
        console.print(table)
    for entry in content[kind] if kind and not as_json else ():
        console.print(f"\n[bold]{entry['id']}[/bold]", highlight=False)
        for key, value in entry.items():
            if key != "id" and value not in ("", None):
                console.print(f"  [dim]{key.replace('_', ' ')}:[/dim] {escape(str(value))}", highlight=False)
    if broken:
        raise FedSafetyError("; ".join(broken))


_COLUMNS = {
    "attacks": ("title", "knowledge"),
    "defenses": ("title", "stages", "knowledge", "ranked"),
    "scenarios": ("title", "attack", "shape"),
    "axes": ("title", "values", "seeds"),
    "suites": ("title", "version", "scenarios", "axes", "seeds"),
    "judges": ("title", "judges"),
    "tasks": ("title", "revision"),
}


@app.command()
def run(
    suite: SuiteOption = "micro",
    scenario: Annotated[list[str] | None, typer.Option(help="Scenario id; repeat for several. Default: all.")] = None,
    axis: Annotated[
        list[str] | None,
        typer.Option(help="Sensitivity axis, or 'all'; repeatable. Default: all, after the scenarios."),
    ] = None,
    defense: Annotated[
        list[str] | None,
        typer.Option(
            help="Defense: an id, a file such as my_rule.py, or a composition such as krum+posthoc_self; repeatable. "
            "Default: the suite's."
        ),
    ] = None,
    attack: Annotated[
        str, typer.Option(help="Attack, an id or a file, that takes the place of the one in --base.")
    ] = "",
    attack_param: Annotated[
        list[str] | None, typer.Option("--attack-param", help="name=value for --attack; repeatable.")
    ] = None,
    base: Annotated[
        list[str] | None, typer.Option(help="Attacked scenario whose attack --attack replaces; repeatable.")
    ] = None,
    seed: Annotated[
        list[int] | None, typer.Option(min=0, max=2**63 - 1, help="Run seed; repeatable. Default: the suite's.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="The suite's quick set: its scenarios and seeds.")] = False,
    runs: RunsOption = Path("runs"),
    engine: EngineOption = "auto",
    workers: Annotated[
        int, typer.Option(min=0, help="Training processes; 0 for one per processor, or one where there is a GPU.")
    ] = 0,
    data_root: DataRootOption = None,
    model_root: ModelRootOption = None,
    sandbox: Annotated[
        bool, typer.Option("--sandbox", help="Run methods that are not built in isolated, as `verify` does.")
    ] = False,
    task: Annotated[
        list[str] | None,
        typer.Option(help="Task or group of lm-evaluation-harness, scored on every served adapter; repeatable."),
    ] = None,
    task_path: Annotated[
        list[Path] | None, typer.Option("--task-path", help="Folder of further YAML tasks; repeatable.")
    ] = None,
    task_limit: Annotated[
        int, typer.Option("--task-limit", min=0, help="First documents of each task to score; 0 for all.")
    ] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be done and stop.")] = False,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Measure samples, print how long the run will take here, and stop.")
    ] = False,
) -> None:
    """Run a suite, or chosen scenarios or sensitivity axes x defenses x seeds of it.

    Only what the folder of your runs (--runs) lacks is done; committed rows do not count.
    """
    from benchmark.execution.plan import make_plan
    from benchmark.methods.source import ATTACK, find_members, find_submission
    from benchmark.progress import Reporter
    from benchmark.records.store import Store
    from benchmark.sandbox.adopt import Strangers
    from benchmark.suites.suite import find_suite

    del data_root, model_root
    chosen = find_suite(suite)
    scenarios, axes, seeds = tuple(scenario or ()), tuple(axis or ()), tuple(seed or ())
    pipelines, submissions = find_members(defense or ())
    if attack:
        submissions = (*submissions, find_submission(attack, ATTACK))
    elif base or attack_param:
        raise UsageError(f"{'--base' if base else '--attack-param'} goes with an attack; name one with --attack")
    strangers = Strangers(submissions, isolated=sandbox)
    strangers.adopt()
    if attack:
        from benchmark.submission.bundle.scenario import attacked_id, attacked_suite, parse_params

        replacing = submissions[-1].id
        chosen = attacked_suite(chosen, replacing, base or (), parse_params(attack_param or ()))
        scenarios += tuple(attacked_id(name, replacing) for name in dict.fromkeys(base or ()))
    if quick:
        scenarios = scenarios or (() if axes else chosen.quick.scenarios)
        seeds = seeds or chosen.quick.seeds
    store = Store(runs)
    choice = _choose(engine)
    plan = make_plan(
        chosen,
        choice.name,
        scenarios=scenarios,
        axes=axes,
        pipelines=pipelines,
        seeds=seeds,
        unresolved=dry_run,
    )
    reporter = Reporter(console)
    if dry_run:
        _print_plan(plan, store)
        print_forecast(plan, console, workers)
        return
    refuse_if_too_large(plan, workers)
    probes, problems = _find_tasks([*chosen.tasks, *(task or [])], task_path or [])
    from benchmark.execution.run import Run, default_workers
    from benchmark.execution.stages import run_plan

    work = Run(plan, store, choice, reporter, workers or default_workers(), strangers)
    if estimate:
        from benchmark.prediction.measured import predict

        with resumable():
            _print_prediction(predict(work))
        return

    reporter.say(f"generation engine {choice.name}: {choice.reason}")
    with resumable():
        report = run_plan(work)
    reporter.say(
        f"{report.cells} cells: {report.cells - report.not_applicable - len(report.failed_cells)} done, "
        f"{report.not_applicable} not applicable, {len(report.failed_cells)} failed; rows are in {runs}"
    )
    if probes:
        from benchmark.harness.evaluation import score_tasks

        with resumable():
            problems += score_tasks(work, probes, task_limit or None)
    for name, reason in (*report.failed_cells, *problems):
        errors.print(f"failed: {name}: {reason}", style="red", markup=False, highlight=False, soft_wrap=True)
    if report.failed_cells or problems:
        scores = f" and {len(problems)} task scores" if problems else ""
        raise FedSafetyError(
            f"{len(report.failed_cells)} of {report.cells} cells{scores} failed and are shown as missing; "
            f"mend the cause and run the same command again: only they are repeated"
        )


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
    from benchmark.execution.worlds import open_world
    from benchmark.judges.base import judges
    from benchmark.progress import Reporter
    from benchmark.records.store import Store
    from benchmark.suites.suite import find_suite

    del data_root, model_root
    chosen = find_suite(suite)
    wanted = tuple(judge_id or chosen.judges)
    for name in wanted:
        judges.get(name)
    store = Store(runs)
    world = open_world(chosen)
    keys = responses_to(world.probes(), store)
    if not keys:
        raise UsageError(
            f"{runs} holds no responses to the probes of suite {chosen.id!r}; make some with 'fedsafety run', or name "
            f"the folder with --runs"
        )
    judging = Judging(world, store, _choose(engine), Reporter(console), chosen.compute)
    with resumable():
        done = judge_responses(judging, keys, wanted)
    console.print(f"{done} response sets judged; {len(keys) * len(wanted) - done} had their verdicts already")


commands.register(app)
commands_real.register(app)
commands_check.register(app)
commands_verify.register(app)


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

    added = publish_rows(Store(runs), results, suite)
    console.print(", ".join(f"{count} {table}" for table, count in added.items()) + f" rows added to {results / suite}")
    if left_out := other_protocols(Store(runs), suite):
        console.print(left_out, markup=False, highlight=False, soft_wrap=True)


@app.command()
def doctor(
    engine: EngineOption = "auto",
    suite: Annotated[
        str, typer.Option("--suite", help="Also tell what a suite's models and data need here: time, memory, consent.")
    ] = "",
    data_root: DataRootOption = None,
    model_root: ModelRootOption = None,
) -> None:
    """Tell what is installed, which generation engine will be used, and why."""
    import shutil

    from benchmark.records.environment import environment
    from tasks.base import task_worlds

    del data_root, model_root
    found: dict[str, Any] = json.loads(environment())
    packages = found.pop("packages")
    problems: list[str] = []
    try:
        choice = _choose(engine)
        chosen = f"generation engine: {choice.name}. {choice.reason}"
    except UsageError:
        raise
    except FedSafetyError as error:
        chosen = "generation engine: none"
        problems.append(str(error))
    table = Table(show_header=False, box=None)
    for key, value in {**found, **packages}.items():
        table.add_row(key.replace("_", " "), str(value) or "unknown")
    console.print(table)
    console.print(f"\n{chosen}", highlight=False, soft_wrap=True)
    for name in task_worlds.names():
        world = task_worlds.get(name).create()
        for role in world.roles:
            try:
                world.model_path(role)
            except FedSafetyError as error:
                problems.append(str(error))
    browser = next((b for b in ("chromium", "chromium-browser", "google-chrome") if shutil.which(b)), None)
    console.print(f"browser for the page's tests: {browser or 'none found'}", highlight=False)
    console.print(f"isolation of submitted methods: {_isolation()}", highlight=False, soft_wrap=True)
    if suite:
        problems += examine_suite(suite, engine, console)
    if problems:
        raise FedSafetyError("; ".join(problems))
    console.print("everything that a run needs is there", style="green")


def _isolation() -> str:
    """Return what isolates submitted methods here, or why nothing does; `verify` needs it, runs of one's own do not."""
    from benchmark.sandbox.isolation import find_isolation

    try:
        found = find_isolation()
    except SandboxUnavailableError as error:
        return f"none; {error}"
    return f"{found.name} {found.version}"


def _choose(engine: str) -> Any:
    from benchmark.generation.select import choose_engine

    return choose_engine(engine)


def _find_tasks(names: list[str], folders: list[Path]) -> tuple[list[Any], list[tuple[str, str]]]:
    """Return the tasks of lm-evaluation-harness of these names, and the names that cannot be loaded with the reason."""
    if not names:
        if folders:
            raise UsageError(f"--task-path {folders[0]} adds tasks but none is asked for; name one with --task")
        return [], []
    try:
        from benchmark.harness.tasks import find_tasks
    except ModuleNotFoundError as error:
        raise UsageError(
            f"--task needs lm-evaluation-harness, but {error.name!r} is not installed; run pip install "
            f"'fedsafetybench[hub]'"
        ) from error
    found, failures = find_tasks(names, folders)
    return found, list(failures.items())


def _print_plan(plan: Any, store: Any) -> None:
    from benchmark.execution.outcome import State, recorded_outcome
    from benchmark.suites.sensitivity import SensitivityScenario

    table = Table()
    for column in ("scenario", "stage"):
        table.add_column(column, overflow="fold")
    for column in ("seed", "state"):
        table.add_column(column, no_wrap=True)
    reasons: dict[str, None] = {}
    for cell in plan.cells:
        outcome = recorded_outcome(cell, store)
        if outcome.state is State.NOT_APPLICABLE:
            reasons.setdefault(f"{cell.scenario.id}, {cell.stage.name}: {outcome.reason}")
        table.add_row(cell.scenario.id, cell.stage.name, str(cell.seed), outcome.state.replace("_", " "))
    console.print(table)
    for reason in reasons:
        console.print(f"not applicable: {reason}", markup=False, highlight=False)
    points = sum(1 for cell in plan.cells if isinstance(cell.scenario, SensitivityScenario))
    among = f" ({points} of them sensitivity points)" if points else ""
    console.print(f"{len(plan.cells)} cells{among}, {len(plan.jobs)} trainings")


def _print_prediction(prediction: Prediction) -> None:
    from benchmark.progress import duration

    console.print(
        f"about {duration(prediction.seconds)} on this machine: {prediction.trainings} trainings and "
        f"{prediction.adapters} derived adapters {duration(prediction.training_seconds)}, "
        f"{prediction.response_sets} response sets and their verdicts {duration(prediction.answering_seconds)}",
        highlight=False,
        soft_wrap=True,
    )


def _listing(kind: str, broken: list[str]) -> list[dict[str, Any]]:
    """Return the metadata of everything of a kind; what cannot be loaded is named in ``broken``."""
    if kind == "suites":
        from benchmark.suites.suite import suites

        return [
            {
                "id": s.id,
                "version": s.version,
                "title": s.title,
                "scenarios": len(s.scenarios),
                "axes": len(s.sensitivity.axes) if s.sensitivity else 0,
                "seeds": ", ".join(map(str, s.seeds)),
                "judges": ", ".join(s.judges),
                "tiers": ", ".join(f"{s.id}_{tier}" for tier in s.tiers),
                "description": s.description,
            }
            for s in suites.entries()
        ]
    if kind == "axes":
        from benchmark.suites.suite import suites

        return [
            {
                "id": axis.id,
                "title": axis.title,
                "suite": s.id,
                "base": axis.base,
                "unit": axis.unit,
                "values": ", ".join(str(point.value) for point in axis.points),
                "scenarios": ", ".join(point.name for point in axis.points),
                "defenses": ", ".join(
                    dict.fromkeys(name for point in axis.points for name in section.defenses_of(axis, point))
                ),
                "seeds": ", ".join(map(str, section.seeds_of(axis))),
                "description": axis.description,
            }
            for s in suites.entries()
            if (section := s.sensitivity)
            for axis in section.axes
        ]
    if kind == "scenarios":
        from benchmark.suites.suite import scenarios

        return [
            {
                "id": s.id,
                "title": s.title,
                "start": s.start,
                "attack": s.attack.id,
                "shape": f"{s.malicious} malicious of {s.clients}, {s.participants} a round, f={s.declared_malicious}",
                "twin": s.twin if s.attacked else "is one",
                "description": s.description,
            }
            for s in scenarios.entries()
        ]
    registry = _registry(kind)
    found = []
    for name in registry.names():
        try:
            entry = registry.get(name)
        except FedSafetyError as error:
            broken.append(str(error))
            continue
        info = {key: _shown(value) for key, value in entry.info.model_dump(mode="json").items()}
        found.append(info | {"origin": entry.origin})
    return found


def _registry(kind: str) -> Any:
    if kind == "attacks":
        from attacks.base import attacks

        return attacks
    if kind == "defenses":
        from defenses.base import defenses

        return defenses
    if kind == "judges":
        from benchmark.judges.base import judges

        return judges
    from tasks.base import task_worlds

    return task_worlds


def _shown(value: Any) -> Any:
    return ", ".join(map(str, value)) if isinstance(value, list) else value


if __name__ == "__main__":
    main()
