"""The command ``fedsafety run``: from its options to a plan, and from the plan to a run, a forecast or an estimate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from benchmark.cli.real import print_forecast, workers_for
from benchmark.cli.shared import (
    DataRootOption,
    EngineOption,
    ModelRootOption,
    Roots,
    RunsOption,
    SuiteOption,
    choose_engine,
    console,
    errors,
    resumable,
)
from benchmark.cli.tuned import cells_of_tuned, no_others_with_tuned, tuned_attacks
from benchmark.errors import FedSafetyError, UsageError
from benchmark.screen import Fitted

if TYPE_CHECKING:
    from benchmark.execution.plan import Plan
    from benchmark.execution.run import Run
    from benchmark.execution.stages import RunReport
    from benchmark.generation.select import EngineChoice
    from benchmark.harness.tasks import Probe
    from benchmark.prediction.measured import Prediction
    from benchmark.progress import Reporter
    from benchmark.records.store import Store
    from benchmark.records.tuned import TunedAttack
    from benchmark.sandbox.adopt import Strangers
    from benchmark.suites.suite import Suite

Reasons = Sequence[tuple[str, str]]
"""Names of failed cells or tasks, each with its reason."""


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("run")(run)


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
    tuned: Annotated[
        bool,
        typer.Option(
            "--tuned", help="Run the attacks that `attack-search` found, each against its defense on the scored seeds."
        ),
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="The suite's quick set: its scenarios, seeds and defenses.")
    ] = False,
    runs: RunsOption = Path("runs"),
    engine: EngineOption = "auto",
    workers: Annotated[
        int, typer.Option(min=0, help="Training processes; 0 for one per processor, or as many as memory holds.")
    ] = 0,
    remember: Annotated[
        float | None,
        typer.Option(
            "--remember",
            min=0,
            help="GiB of disk for local training that several rules share; 0 to train for each rule. Default: 4.",
        ),
    ] = None,
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
    from benchmark.progress import Reporter
    from benchmark.records.remembered import REMEMBERED_BYTES
    from benchmark.suites.suite import find_suite

    Roots(data_root, model_root).use()
    chosen = find_suite(suite)
    if remark := seed_remark(chosen, seed or ()):
        errors.say(f"note: {remark}")
    found: tuple[TunedAttack, ...] = ()
    if tuned:
        no_others_with_tuned({"--attack": attack, "--base": base, "--axis": axis, "--quick": quick})
        found, remark = tuned_attacks(chosen, runs, scenario or (), defense or ())
        if remark:
            console.say(remark)
        if not found:
            return
    request = RunRequest(
        suite=suite,
        scenarios=tuple(scenario or ()),
        axes=tuple(axis or ()),
        defenses=tuple(defense or ()),
        attack=attack,
        attack_params=tuple(attack_param or ()),
        bases=tuple(base or ()),
        seeds=tuple(seed or ()),
        quick=quick,
        runs=runs,
        engine=engine,
        sandbox=sandbox,
        tuned=found,
    )
    reporter = Reporter(console)
    # A plan on data from outside reads their prompts. A run shows the progress of fetching them instead.
    reads = int(dry_run and chosen.data is not None)
    with resumable(), Reporter(errors).step("making the plan", reads) as step:
        prepared = request.prepare(unresolved=dry_run, reporter=reporter)
        step.advance()
    remembered_bytes = REMEMBERED_BYTES if remember is None else int(remember * 2**30)
    if dry_run:
        _print_plan(prepared.plan, prepared.store, remembers=bool(remembered_bytes))
        print_forecast(prepared.plan, console, workers, remembered_bytes)
        return
    at_once = workers_for(prepared.plan, workers)
    probes, problems = _find_tasks([*prepared.plan.suite.tasks, *(task or [])], task_path or [])
    whole = prepared.run(reporter, at_once, remembered_bytes)
    if estimate:
        _estimate(whole)
    else:
        _carry_out(whole, probes, task_limit or None, problems)


def seed_remark(suite: Suite, seeds: Sequence[int]) -> str:
    """Return which of the chosen seeds neither the suite nor a scenario of it has; empty if there are none."""
    present = {*suite.seeds, *suite.quick.seeds, *(each for s in suite.every_scenario for each in suite.seeds_of(s))}
    others = [str(seed) for seed in dict.fromkeys(seeds) if seed not in present]
    if not others:
        return ""
    subject = f"seed {others[0]} is" if len(others) == 1 else f"seeds {', '.join(others)} are"
    return (
        f"{subject} not among the seeds of suite {suite.id!r} ({', '.join(map(str, sorted(present)))}): beside "
        f"committed rows, the ranking leaves out rows of other seeds; a board of your own rows alone counts them"
    )


@dataclass(frozen=True)
class RunRequest:
    """Choices of a user: the suite and its parts, the methods, the engine and the folder.

    Attributes:
        suite: Name or file of the suite.
        scenarios: Scenario ids; with ``axes`` empty for all.
        axes: Sensitivity axes.
        defenses: Ids, files or compositions; empty for the suite's.
        attack: Id or file of an attack that replaces the attack of ``bases``; empty for no replacement.
        attack_params: ``name=value`` for ``attack``.
        bases: Attacked scenarios whose attack is replaced.
        seeds: Run seeds; empty for the suite's.
        quick: Whether the suite's quick set fills empty choices.
        runs: Folder of the user's runs.
        engine: Name of the generation engine.
        sandbox: Whether methods that are not built in run isolated.
        tuned: Results of attack searches to run in place of all else; scenarios and defenses are theirs then.
    """

    suite: str
    scenarios: tuple[str, ...] = ()
    axes: tuple[str, ...] = ()
    defenses: tuple[str, ...] = ()
    attack: str = ""
    attack_params: tuple[str, ...] = ()
    bases: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    quick: bool = False
    runs: Path = Path("runs")
    engine: str = "auto"
    sandbox: bool = False
    tuned: tuple[TunedAttack, ...] = ()

    def prepare(self, *, unresolved: bool, reporter: Reporter | None = None) -> PreparedRun:
        """Adopt the methods of the request, fetch its models and data, and return its plan with the means to run it.

        Args:
            unresolved: Whether the plan is only shown, also where models or data are not available; nothing is fetched.
            reporter: Shows the progress of fetching.

        Raises:
            InputsMissingError: A model or data set cannot be fetched.
            FedSafetyError: The engine ``auto`` is another one than that of the responses in the folder.
        """
        from benchmark.execution.plan import make_plan
        from benchmark.execution.readiness import fetch_inputs
        from benchmark.execution.stored import check_engine
        from benchmark.generation.select import ENGINES
        from benchmark.methods.kinds import ATTACK
        from benchmark.methods.source import find_members, find_method
        from benchmark.records.store import Store
        from benchmark.sandbox.adopt import Strangers
        from benchmark.suites.suite import find_suite
        from benchmark.suites.tuned import Tuned, tuned_id, tuned_suite

        suite, scenarios, seeds = find_suite(self.suite), self.scenarios, self.seeds
        names = tuple(dict.fromkeys(entry.defense for entry in self.tuned)) or self.defenses
        pipelines, submissions = find_members(names)
        if self.attack:
            submissions = (*submissions, find_method(self.attack, ATTACK))
        elif self.bases or self.attack_params:
            option = "--base" if self.bases else "--attack-param"
            raise UsageError(f"{option} goes with an attack; name one with --attack")
        strangers = Strangers(submissions, isolated=self.sandbox)
        strangers.adopt()
        if self.attack:
            suite, attacked = self._attacked(suite, submissions[-1].id)
            scenarios += attacked
        if self.tuned:
            choices = [Tuned(each.scenario, each.defense, each.attack.id, each.attack.params) for each in self.tuned]
            suite, scenarios = tuned_suite(suite, choices), tuple(tuned_id(each.base, each.defense) for each in choices)
        if self.quick:
            scenarios = scenarios or (() if self.axes else suite.quick.scenarios)
            seeds = seeds or suite.quick.seeds
            pipelines = pipelines or suite.quick.defenses
        store, engine = Store(self.runs), choose_engine(self.engine)
        planned = partial(
            make_plan,
            suite,
            scenarios=scenarios,
            axes=self.axes,
            pipelines=pipelines,
            seeds=seeds,
        )
        if reporter is not None and not unresolved and suite.fetches:
            fetch_inputs(planned(engine.name, unresolved=True), reporter)
        planned = partial(planned, unresolved=unresolved)
        if self.tuned:
            planned = partial(cells_of_tuned, planned)
        plan = planned(engine.name)
        if engine.automatic and store.keys("responses"):
            for name in {*ENGINES} - {engine.name}:
                check_engine(plan, planned(name), store, engine.reason)
        return PreparedRun(plan, store, engine, strangers)

    def _attacked(self, suite: Suite, attack: str) -> tuple[Suite, tuple[str, ...]]:
        """Return the suite with the scenarios in which ``attack`` replaces the attack, and the ids of these."""
        from benchmark.suites.attacked import attacked_id, attacked_suite, parse_params

        ids = tuple(attacked_id(name, attack) for name in dict.fromkeys(self.bases))
        return attacked_suite(suite, attack, self.bases, parse_params(self.attack_params)), ids


@dataclass(frozen=True)
class PreparedRun:
    """The plan of a request and the means to run it."""

    plan: Plan
    store: Store
    engine: EngineChoice
    strangers: Strangers

    def run(self, reporter: Reporter, workers: int, remembered_bytes: int) -> Run:
        """Return the run with a number of training processes at once and a limit on remembered rounds."""
        from benchmark.execution.run import Run

        return Run(self.plan, self.store, self.engine, reporter, workers, self.strangers, remembered_bytes)


def _estimate(whole: Run) -> None:
    from benchmark.prediction.measured import predict

    with resumable():
        _print_prediction(predict(whole))


def _carry_out(whole: Run, probes: Sequence[Probe], task_limit: int | None, problems: Reasons) -> None:
    """Do the run and score its tasks.

    Args:
        whole: The run.
        probes: Tasks to score.
        task_limit: Number of documents of each task, from the first; all if ``None``.
        problems: Tasks that cannot be scored, with the reason.

    Raises:
        FedSafetyError: Cells or task scores failed.
    """
    from benchmark.execution.stages import run_plan

    whole.reporter.say(f"generation engine {whole.engine.name}: {whole.engine.reason}")
    with resumable():
        report = run_plan(whole)
    done = report.cells - report.not_applicable - len(report.failed_cells)
    whole.reporter.say(
        f"{report.cells} cells: {done} done, {report.not_applicable} not applicable, {len(report.failed_cells)} "
        f"failed; rows are in {whole.store.root}"
    )
    if probes:
        from benchmark.harness.evaluation import score_tasks

        with resumable():
            problems = [*problems, *score_tasks(whole, probes, task_limit)]
    _raise_failures(report, problems)


def _raise_failures(report: RunReport, problems: Reasons) -> None:
    """Print every failure and raise one error for all of them."""
    for name, reason in (*report.failed_cells, *problems):
        errors.say(f"failed: {name}: {reason}", "red")
    if report.failed_cells or problems:
        scores = f" and {len(problems)} task scores" if problems else ""
        raise FedSafetyError(
            f"{len(report.failed_cells)} of {report.cells} cells{scores} failed and are shown as missing; "
            f"mend the cause and run the same command again: only they are repeated"
        )


def _find_tasks(names: list[str], folders: list[Path]) -> tuple[Sequence[Probe], Reasons]:
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
    probes, failures = find_tasks(names, folders)
    return probes, list(failures.items())


def _print_plan(plan: Plan, store: Store, *, remembers: bool) -> None:
    from benchmark.execution.outcome import State, recorded_outcome
    from benchmark.execution.sharing import Sharing
    from benchmark.suites.sensitivity import SensitivityScenario

    table = Table()
    for column in ("scenario", "stage", "seed", "state"):
        table.add_column(column)
    reasons: dict[str, None] = {}
    for cell in plan.cells:
        outcome = recorded_outcome(cell, store)
        if outcome.state is State.NOT_APPLICABLE:
            reasons.setdefault(f"{cell.scenario.id}, {cell.stage.name}: {outcome.reason}")
        table.add_row(cell.scenario.id, cell.stage.name, str(cell.seed), outcome.state.replace("_", " "))
    console.print(Fitted(table, names=2))
    for reason in reasons:
        console.say(f"not applicable: {reason}")
    points = sum(1 for cell in plan.cells if isinstance(cell.scenario, SensitivityScenario))
    among = f" ({points} of them sensitivity points)" if points else ""
    sharing = Sharing.of(plan.jobs, plan.suite, None if remembers else ())
    console.say(f"{len(plan.cells)} cells{among}, {len(plan.jobs)} trainings{sharing.remark}")


def _print_prediction(prediction: Prediction) -> None:
    from benchmark.progress import duration

    console.say(
        f"about {duration(prediction.seconds)} on this machine: {prediction.trainings} trainings and "
        f"{prediction.adapters} derived adapters {duration(prediction.training_seconds)}, "
        f"{prediction.response_sets} response sets and their verdicts {duration(prediction.answering_seconds)}"
    )
    if prediction.sharing is not None and prediction.sharing.remark:
        console.say(f"{prediction.trainings} trainings{prediction.sharing.remark}")
