"""The command ``fedsafety attack-search``: tunes an attack against one defense on development seeds."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

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

if TYPE_CHECKING:
    from benchmark.attack_search.search import AttackSearch, Means, Progress
    from benchmark.attack_search.spaces import Choice, Number
    from benchmark.records.tuned import TunedAttack


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("attack-search")(attack_search)


def attack_search(
    defense: Annotated[
        str, typer.Option("--defense", help="Defense: an id, a file, or a composition such as krum+posthoc_self.")
    ],
    scenario: Annotated[str, typer.Option("--scenario", help="Attacked scenario of the suite's ranking.")],
    budget: Annotated[
        int,
        typer.Option(
            "--budget",
            help="Trials, the scenario's own attack included. A trial trains the defense once for each seed.",
        ),
    ],
    suite: SuiteOption = "micro",
    attack: Annotated[
        list[str] | None,
        typer.Option(
            "--attack", help="Attack to tune; repeat for several. Default: five that aim at safety, and the scenario's."
        ),
    ] = None,
    seed: Annotated[
        list[int] | None,
        typer.Option("--seed", help="Development seed, below 10; repeatable. Default: the first that is not scored."),
    ] = None,
    sampler_seed: Annotated[int, typer.Option("--sampler-seed", min=0, max=2**32, help="Seed of the sampler.")] = 0,
    runs: RunsOption = Path("runs"),
    engine: EngineOption = "transformers",
    workers: Annotated[int, typer.Option(min=0, help="Training processes; 0 for one for each development seed.")] = 0,
    data_root: DataRootOption = None,
    model_root: ModelRootOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the trials, the search space and the predicted time, and stop.")
    ] = False,
) -> None:
    """Search the attack and parameters under which a defense is least safe, on development seeds.

    The trials are kept in the folder of your runs, and the same command continues them. `fedsafety run --tuned` runs
    the result on the scored seeds.
    """
    from benchmark.attack_search.search import AttackSearch, Means, check_budget
    from benchmark.execution.readiness import fetch_inputs
    from benchmark.methods.source import find_members
    from benchmark.progress import Reporter
    from benchmark.records.tuned import record_tuned
    from benchmark.sandbox.adopt import Strangers
    from benchmark.suites.suite import find_suite
    from leaderboard.ranking.trials import score_trial

    check_budget(budget)
    Roots(data_root, model_root).use()
    chosen, choice, reporter = find_suite(suite), choose_engine(engine), Reporter(console)
    (pipeline,), submissions = find_members((defense,))
    strangers = Strangers(submissions)
    strangers.adopt()

    def search_of(*, unresolved: bool) -> AttackSearch:
        return AttackSearch(
            chosen,
            scenario,
            pipeline,
            seeds=tuple(seed or ()),
            attack_ids=tuple(attack or ()),
            sampler_seed=sampler_seed,
            generator=choice.name,
            unresolved=unresolved,
        )

    search = search_of(unresolved=dry_run or chosen.fetches)
    with resumable():
        if chosen.fetches and not dry_run:
            fetch_inputs(search.plan_of(search.own), reporter)
            search = search_of(unresolved=False)
        own_plan = search.plan_of(search.own)
        at_once = workers_for(own_plan, min(workers or len(search.seeds), len(search.seeds)))
        means = Means(runs, choice, score_trial, reporter, at_once, strangers)
        if dry_run:
            _print_search(search, budget, means)
            return

        def tell(progress: Progress) -> None:
            reporter.say(_trial_line(progress, budget))

        result = search.run(budget, means, tell)
    path = record_tuned(runs, chosen.id, result)
    console.say(_summary(result))
    console.say(f"written to {path}; `fedsafety run --suite {suite} --tuned` runs it on the scored seeds")


def _trial_line(progress: Progress, budget: int) -> str:
    from benchmark.attack_search.trial import TrialState

    trial = progress.trial
    ending = "no score" if trial.safety is None else f"safety {100 * trial.safety:.1f}"
    remark = "" if trial.state is TrialState.FEASIBLE else f", {trial.state}: {'; '.join(trial.reasons)}"
    lowest = "" if progress.lowest is None else f"; lowest so far {100 * progress.lowest:.1f}"
    return f"trial {progress.number} of {budget}: {trial.setting}: {ending}{remark}{lowest}"


def _summary(result: TunedAttack) -> str:
    from benchmark.attack_search.trial import Setting

    budget = result.budget
    trials = f"{budget.trials} trial{'s' * (budget.trials != 1)}"
    discarded = f" ({budget.infeasible} failed a gate, {budget.failed} had no score)"
    trials += discarded if budget.infeasible or budget.failed else ""
    own = f"its own attack {Setting(result.own.id, result.own.params)}"
    where = f"against {result.defense} in {result.scenario}"
    if not result.lower:
        return f"{where}, {trials} found nothing lower than {own} (safety {_percent(result.own.safety)})"
    lowest = f"{Setting(result.attack.id, result.attack.params)} as the worst"
    return (
        f"{where}, {trials} found {lowest}: safety {_percent(result.attack.safety)} on development seeds, against "
        f"{_percent(result.own.safety)} under {own}"
    )


def _percent(share: float | None) -> str:
    return "unknown" if share is None else f"{100 * share:.1f}"


def _print_search(search: AttackSearch, budget: int, means: Means) -> None:
    """Print what a search would do, and its predicted time."""
    seeds = ", ".join(map(str, search.seeds))
    console.say(
        f"search against {search.pipeline.name} in {search.base.id}: {budget} trials on development seeds {seeds}, "
        f"prompts {search.prompts}, sampler {search.sampler} with seed {search.sampler_seed}"
    )
    console.say(f"trial 1: the scenario's own attack, {search.own}")
    for name, space in search.spaces.items():
        domains = "; ".join(f"{parameter} {_domain(domain)}" for parameter, domain in space.items())
        console.say(f"space of {name}: {domains}")
    plan = search.plan_of(search.own)
    trainings = budget * len(search.seeds)
    console.say(f"{trainings} trainings of the defense, and {len(search.seeds)} of FedAvg without attack")
    if plan.world.models_are_large:
        console.say(f"cost of one trial, of which the search does {budget}:")
        print_forecast(plan, console, means.workers)
        return
    _print_time(search, budget, means)


def _domain(domain: Number | Choice) -> str:
    from benchmark.attack_search.spaces import Choice

    if isinstance(domain, Choice):
        return f"one of {', '.join(map(str, domain.options))}"
    scale = ", logarithmic" if domain.log else f", steps of {domain.step:g}" if domain.step else ""
    return f"{domain.low:g} to {domain.high:g}{scale}"


def _print_time(search: AttackSearch, budget: int, means: Means) -> None:
    """Print the predicted time of the trials that are not done, from finished trials or else from samples."""
    from benchmark.execution.run import Run
    from benchmark.prediction.measured import predict
    from benchmark.progress import Reporter, duration
    from benchmark.records.store import Store

    finished = search.finished(means.runs)
    remaining = max(0, budget - len(finished))
    if finished:
        console.say(f"{min(len(finished), budget)} trials are done already")
        seconds, source = statistics.fmean(trial.seconds for trial in finished), "the trials that are done"
    elif remaining:
        with tempfile.TemporaryDirectory(prefix="fedsafety-search-") as folder:
            plan = search.plan_of(search.own)
            run = Run(plan, Store(Path(folder)), means.engine, Reporter(errors), means.workers, means.strangers)
            seconds, source = predict(run).seconds, "samples"
        remaining += 1  # FedAvg without attack
    console.say(f"about {duration(remaining * seconds)} on this machine, by {source}" if remaining else "nothing to do")
