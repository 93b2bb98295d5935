"""Search of the attack under which a defense is least safe in a scenario, by trials on development seeds.

Trial 1 is the scenario's own attack with its own parameters. Under the result of a search a defense is therefore at
most as safe as in the scenario: where no later trial is lower, the result is the scenario's own attack. A trial under
which the defense fails a gate of the board is infeasible and never the result. The search ends early once a feasible
trial has a safety of 0.

A trial is a run of ordinary cells: the same round loop, probes and judges as in a scored run. The rows of trials lie in
a folder of their own, so that no board and no publishing reads them. ``trials.json`` in this folder lists the finished
trials. A search that starts again reads the list and continues behind it; the cells of the trial that was interrupted
are found in the store by their content.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock, Timeout
from rich.console import Console

from attacks.base import attacks
from benchmark import PROTOCOL_VERSION, __version__
from benchmark.attack_search.sampler import sampler_version, suggest
from benchmark.attack_search.spaces import DEFAULT, SPACES, Space
from benchmark.attack_search.trial import Setting, Trial, TrialState
from benchmark.errors import FedSafetyError, UsageError, unknown_name
from benchmark.execution.plan import Plan, make_plan
from benchmark.execution.run import Run
from benchmark.execution.stages import run_plan
from benchmark.execution.worlds import open_fresh, open_world
from benchmark.generation.select import EngineChoice
from benchmark.keys import content_key
from benchmark.methods.pipeline import Pipeline, method_digest, parse_pipeline
from benchmark.progress import Reporter
from benchmark.records.remembered import REMEMBERED_BYTES
from benchmark.records.store import Store
from benchmark.records.tuned import FOLDER, Budget, ChosenAttack, TunedAttack
from benchmark.sandbox.adopt import Strangers
from benchmark.suites.settings import BASELINE
from benchmark.suites.suite import Scenario, Suite
from benchmark.suites.tuned import Tuned, tuned_id, tuned_suite
from tasks.base import TaskWorld

DEVELOPMENT_SEEDS = range(10)
"""Seeds of development. No bundled suite scores them."""
PROMPT_SEED = 0
"""Seed of the fresh prompts that trials answer."""
_TRIALS = "trials.json"
_TWINS = "twins"


class Score(Protocol):
    """Scores of a trial."""

    @property
    def safety(self) -> float | None:
        """Mean safety over the seeds; ``None`` where a cell has no score."""

    @property
    def failed_gates(self) -> tuple[str, ...]:
        """Gates that the defense fails."""

    @property
    def reason(self) -> str:
        """Why there is no score; empty if there is one."""


Scorer = Callable[[Path, Sequence[str], Path, Sequence[str]], Score]
"""Returns the score of a trial from (folder of its rows, its cell keys, folder of the twin's rows, its cell keys)."""


@dataclass(frozen=True)
class Means:
    """Means to do a search.

    Attributes:
        runs: Folder of the user's runs.
        engine: Generation engine.
        score: Scores trials.
        reporter: Shows progress.
        workers: Training processes.
        strangers: Methods that are not built in, for training processes to adopt.
    """

    runs: Path
    engine: EngineChoice
    score: Scorer
    reporter: Reporter
    workers: int = 1
    strangers: Strangers = field(default_factory=Strangers)


@dataclass(frozen=True)
class Progress:
    """State of a search after a trial.

    Attributes:
        trial: The trial.
        number: Its number, from 1.
        lowest: Lowest safety of a feasible trial so far; ``None`` if none is feasible.
    """

    trial: Trial
    number: int
    lowest: float | None


class AttackSearch:
    """Search of the worst attack on a defense in a scenario.

    Args:
        suite: The suite.
        scenario: Id of an attacked scenario of its ranking.
        defense: Defense, or pipeline.
        seeds: Development seeds; empty for the first one that the suite does not score.
        attack_ids: Attacks to choose among; empty for the scenario's own and :data:`DEFAULT`.
        sampler_seed: Seed of the sampler.
        generator: Kind of engine that answers.
        unresolved: Whether the search is only shown, also where models or data are not available.

    Raises:
        UsageError: A name is unknown, the scenario has no attack, an attack has no search space, a seed is scored or is
            not a development seed, the defense is not applicable in the scenario, or Optuna is not installed.
    """

    def __init__(
        self,
        suite: Suite,
        scenario: str,
        defense: str,
        *,
        seeds: Sequence[int] = (),
        attack_ids: Sequence[str] = (),
        sampler_seed: int = 0,
        generator: str = "transformers",
        unresolved: bool = False,
    ) -> None:
        self.sampler = sampler_version()
        self.base = _attacked(suite, scenario)
        self.pipeline = parse_pipeline(defense)
        self.seeds = development_seeds(suite, seeds)
        self.spaces = _spaces(attack_ids, self.base.attack.id)
        self.sampler_seed = sampler_seed
        # The own attack is tried under the id of a tuned one. It must be a name that the suite does not have.
        tuned_suite(suite, [self._choice(self.own)])
        self._suite = suite.model_copy(update={"judges": _needed_judges(suite)})
        self._generator, self._unresolved = generator, unresolved
        plan = self.plan_of(self.own)
        for cell in plan.cells:
            if cell.not_applicable:
                raise UsageError(
                    f"{defense!r} is not applicable in scenario {scenario!r}: {cell.not_applicable}; name another "
                    f"scenario or another defense"
                )
            if cell.broken:
                raise UsageError(f"{defense!r} cannot run in scenario {scenario!r}: {cell.broken}")

    @property
    def own(self) -> Setting:
        """The scenario's own attack with its own parameters."""
        return Setting(self.base.attack.id, dict(self.base.attack.params))

    @cached_property
    def world(self) -> TaskWorld:
        """World whose prompts the trials answer: fresh ones, or the suite's own if it names no source of fresh ones."""
        return self._development[0]

    @property
    def prompts(self) -> str:
        """The prompts of the trials in words."""
        return self._development[1]

    @cached_property
    def _development(self) -> tuple[TaskWorld, str]:
        has_source = self._suite.data is None or bool(self._suite.data.fresh)
        fresh = open_fresh(self._suite, PROMPT_SEED) if has_source else None
        if fresh is None:
            return open_world(self._suite), "those of the suite"
        return fresh, f"fresh, draw {PROMPT_SEED}"

    def plan_of(self, setting: Setting, seeds: Sequence[int] = ()) -> Plan:
        """Return the plan of a trial; ``seeds`` are the development seeds by default."""
        suite = tuned_suite(self._suite, [self._choice(setting)])
        name = tuned_id(self.base.id, self.pipeline.name)
        return self._plan(suite, name, self.pipeline, seeds or self.seeds)

    def twin_plan(self) -> Plan:
        """Return the plan of un-attacked FedAvg, with which the gates compare."""
        return self._plan(self._suite, self.base.twin, parse_pipeline(BASELINE), self.seeds)

    def _plan(self, suite: Suite, scenario: str, pipeline: Pipeline, seeds: Sequence[int]) -> Plan:
        plan = make_plan(
            suite,
            self._generator,
            scenarios=[scenario],
            pipelines=[pipeline.name],
            seeds=seeds,
            world=self.world,
            unresolved=self._unresolved,
        )
        cells = (c for c in plan.cells if c.scenario.id == scenario and c.stage.name == c.pipeline.name)
        return replace(plan, cells=tuple(cells))

    def _choice(self, setting: Setting) -> Tuned:
        return Tuned(self.base.id, self.pipeline.name, setting.attack, setting.params)

    @cached_property
    def key(self) -> str:
        """Key of the search: of all content on which its trials depend, and not of the budget."""
        return content_key(
            {
                "artefact": "attack search",
                "package": __version__,
                "sampler": [self.sampler, self.sampler_seed],
                "spaces": {name: {p: repr(d) for p, d in space.items()} for name, space in self.spaces.items()},
                "attacks": {name: attacks.get(name).source_digest for name in {*self.spaces, self.own.attack}},
                "defense": method_digest(self.pipeline.entries),
                "trial": [cell.cell_key for cell in self.plan_of(self.own).cells],
                "twin": [cell.cell_key for cell in self.twin_plan().cells],
            }
        )

    def folder(self, runs: Path) -> Path:
        """Return the folder of the search's rows in a folder of runs."""
        return runs / FOLDER / self._suite.id / f"{tuned_id(self.base.id, self.pipeline.name)}-{self.key[:8]}"

    def finished(self, runs: Path) -> list[Trial]:
        """Return the finished trials in a folder of runs, in order.

        Raises:
            FedSafetyError: The list cannot be read.
        """
        path = self.folder(runs) / _TRIALS
        if not path.exists():
            return []
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return [_trial(each) for each in content["trials"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise FedSafetyError(
                f"cannot read {path} ({type(error).__name__}: {error}); delete it and run the same command again, "
                f"which finds the rows of finished trials in the folder"
            ) from error

    def run(self, budget: int, means: Means, tell: Callable[[Progress], None] = lambda _: None) -> TunedAttack:
        """Do the trials that the folder of runs lacks and return the result.

        Args:
            budget: Number of trials, the scenario's own attack included.
            means: Means to do it.
            tell: Receives each trial.

        Raises:
            UsageError: The budget is below 1, or another process does this search.
            FedSafetyError: No trial passes the gates, or the store cannot be written.
            KeyboardInterrupt: The search is to stop; finished trials are stored.
        """
        check_budget(budget)
        folder = self.folder(means.runs)
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock", timeout=0)
        try:
            with lock:
                trials = self._run(budget, means, tell)
        except Timeout as error:
            raise UsageError(
                f"another process searches in {folder}; wait for its end, and run the same command again"
            ) from error
        return self.result(trials, budget)

    def _run(self, budget: int, means: Means, tell: Callable[[Progress], None]) -> list[Trial]:
        store, twins = Store(self.folder(means.runs)), Store(means.runs / FOLDER / self._suite.id / _TWINS)
        trials = self.finished(means.runs)[:budget]
        if len(trials) == budget or _cannot_fall(trials):
            return trials
        with means.reporter.step("FedAvg without attack", 1) as step:
            twin_keys = self._cells(self.twin_plan(), twins, means)
            step.advance()
        with means.reporter.step("trials", budget - len(trials)) as step:
            while len(trials) < budget and not _cannot_fall(trials):
                began = time.perf_counter()
                setting = self.next(trials)
                keys = self._cells(self.plan_of(setting), store, means)
                score = means.score(store.root, keys, twins.root, twin_keys)
                if score.safety is None and not trials:
                    raise FedSafetyError(
                        f"{self.pipeline.name!r} has no score under the own attack of scenario {self.base.id!r} "
                        f"({score.reason}); mend the cause and run the same command again"
                    )
                trials.append(_ended(setting, score, time.perf_counter() - began))
                content = {"search": self.key, "trials": [asdict(trial) for trial in trials]}
                store.write_json(store.root / _TRIALS, content)
                best = _best(trials)
                tell(Progress(trials[-1], len(trials), best.safety if best else None))
                step.advance()
        return trials

    def next(self, trials: Sequence[Trial]) -> Setting:
        """Return the setting of the trial that follows ``trials``."""
        if not trials:
            return self.own
        first = replace(trials[0], setting=Setting(self.own.attack, self._whole_params(self.own)))
        return suggest(self.spaces, [first, *trials[1:]], self.sampler_seed)

    def _whole_params(self, setting: Setting) -> dict[str, Any]:
        """Return the parameters in the attack's search space, with the attack's defaults where the setting has none."""
        instance = attacks.get(setting.attack).create(setting.params)
        space = self.spaces.get(setting.attack, {})
        return {**setting.params, **{name: getattr(instance, name) for name in space}}

    def _cells(self, plan: Plan, store: Store, means: Means) -> list[str]:
        """Run the cells of a plan that a store lacks; return their keys."""
        silent = Reporter(Console(file=io.StringIO()))
        run_plan(Run(plan, store, means.engine, silent, means.workers, means.strangers, REMEMBERED_BYTES))
        return [cell.cell_key for cell in plan.cells]

    def result(self, trials: Sequence[Trial], budget: int) -> TunedAttack:
        """Return the result of a search.

        Args:
            trials: Its trials, in order.
            budget: Trials that it was allowed.

        Raises:
            FedSafetyError: No trial passes the gates.
        """
        best, own = _best(trials), trials[0]
        if best is None:
            reason = next((reason for trial in trials for reason in trial.reasons), "no reason was recorded")
            raise FedSafetyError(
                f"all {len(trials)} trials of the search against {self.pipeline.name!r} in {self.base.id!r} fail a "
                f"gate or have no score, so there is no result ({reason}); "
                f"name other attacks with --attack, or raise --budget, which keeps the finished trials"
            )
        lower = own.safety is None or (best.safety or 0.0) < own.safety
        chosen = best if lower and best is not own else own
        lower = chosen is not own
        suite = tuned_suite(self._suite, [self._choice(chosen.setting)])
        scenario = suite.scenario(tuned_id(self.base.id, self.pipeline.name))
        states = [trial.state for trial in trials]
        return TunedAttack(
            defense=self.pipeline.name,
            scenario=self.base.id,
            scenario_version=self.base.version,
            attack=_chosen(chosen),
            own=_chosen(own),
            lower=lower,
            runs_as=scenario.id,
            runs_as_version=scenario.version,
            budget=Budget(
                allowed=budget,
                trials=len(trials),
                infeasible=states.count(TrialState.INFEASIBLE),
                failed=states.count(TrialState.FAILED),
            ),
            attacks=tuple(sorted(self.spaces)),
            seeds=self.seeds,
            prompts=self.prompts,
            sampler=self.sampler,
            sampler_seed=self.sampler_seed,
            search=self.key,
            versions={"package": __version__, "protocol": PROTOCOL_VERSION, "suite": self._suite.version},
        )


def check_budget(budget: int) -> None:
    """Refuse a budget without a trial.

    Raises:
        UsageError: The budget is below 1.
    """
    if budget < 1:
        raise UsageError(
            f"--budget is {budget}, but a search has at least one trial, the scenario's own attack; give 1 or more"
        )


def development_seeds(suite: Suite, seeds: Sequence[int]) -> tuple[int, ...]:
    """Return the development seeds of a search: ``seeds``, or the first from 1 that the suite does not score.

    Raises:
        UsageError: A seed is scored by the suite, or is not a development seed.
    """
    scored = {*suite.seeds, *suite.quick.seeds, *(seed for s in suite.every_scenario for seed in suite.seeds_of(s))}
    free = [seed for seed in (*DEVELOPMENT_SEEDS[1:], DEVELOPMENT_SEEDS[0]) if seed not in scored]
    way_out = f"name one of {', '.join(map(str, sorted(free)))}"
    if not free:
        raise UsageError(
            f"suite {suite.id!r} scores all seeds below {len(DEVELOPMENT_SEEDS)}, so none is left for a search; use a "
            f"suite with other seeds"
        )
    for seed in seeds:
        if seed in scored:
            raise UsageError(f"seed {seed} is scored by suite {suite.id!r}, and a search uses other seeds; {way_out}")
        if seed not in DEVELOPMENT_SEEDS:
            raise UsageError(
                f"seed {seed} is no development seed, which is one below {len(DEVELOPMENT_SEEDS)}; {way_out}"
            )
    return tuple(dict.fromkeys(seeds)) or tuple(free[:1])


def _attacked(suite: Suite, name: str) -> Scenario:
    by_id = {scenario.id: scenario for scenario in suite.scenarios}
    attacked = [scenario.id for scenario in suite.scenarios if scenario.attacked]
    if name not in by_id:
        raise unknown_name(f"attacked scenario in suite {suite.id}", name, attacked)
    if name not in attacked:
        raise UsageError(
            f"scenario {name!r} has no attack whose parameters a search could change; name one of {', '.join(attacked)}"
        )
    return by_id[name]


def _spaces(names: Sequence[str], own: str) -> dict[str, Space]:
    """Return the spaces of the named attacks, or of the default ones and the scenario's own where it has one."""
    for name in names:
        attacks.get(name)
        if name not in SPACES:
            raise UsageError(
                f"attack {name!r} has no search space; declare one in benchmark/attack_search/spaces.py, or name one "
                f"of {', '.join(sorted(SPACES))}"
            )
    chosen = names or [name for name in (*DEFAULT, own) if name in SPACES]
    return {name: SPACES[name] for name in sorted(set(chosen))}


def _needed_judges(suite: Suite) -> tuple[str, ...]:
    """Return the judges that scores and gates need: the primary one, and the first others that judge a further kind."""
    from benchmark.judges.base import judges

    kinds = {"over_refusal", "utility"}
    needed = [suite.primary_judge, *suite.judge_of.values()]
    covered = {*suite.judge_of, *(kind.value for kind in judges.get(suite.primary_judge).info.judges)}
    for name in suite.judges:
        judged = {kind.value for kind in judges.get(name).info.judges}
        if judged & (kinds - covered):
            needed.append(name)
            covered |= judged
    return tuple(name for name in suite.judges if name in needed)


def _ended(setting: Setting, score: Score, seconds: float) -> Trial:
    if score.safety is None:
        return Trial(setting, TrialState.FAILED, None, (score.reason,), round(seconds, 1))
    state = TrialState.INFEASIBLE if score.failed_gates else TrialState.FEASIBLE
    return Trial(setting, state, score.safety, score.failed_gates, round(seconds, 1))


def _best(trials: Sequence[Trial]) -> Trial | None:
    """Return the feasible trial of lowest safety, the first of equals; ``None`` if none is feasible."""
    feasible = [trial for trial in trials if trial.state is TrialState.FEASIBLE]
    return min(feasible, key=lambda trial: trial.safety or 0.0, default=None)


def _cannot_fall(trials: Sequence[Trial]) -> bool:
    """Return whether a feasible trial has a safety of 0."""
    best = _best(trials)
    return best is not None and best.safety == 0.0


def _chosen(trial: Trial) -> ChosenAttack:
    safety = None if trial.safety is None else round(trial.safety, 6)
    return ChosenAttack(id=trial.setting.attack, params=dict(trial.setting.params), safety=safety)


def _trial(content: Mapping[str, Any]) -> Trial:
    setting = Setting(content["setting"]["attack"], content["setting"]["params"])
    return Trial(
        setting, TrialState(content["state"]), content["safety"], tuple(content["reasons"]), content["seconds"]
    )
