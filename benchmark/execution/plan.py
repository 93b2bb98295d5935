"""The plan of a suite: its cells, and the trainings, adapters and responses on which they rest.

A cell is one (scenario, defense, seed, stage). It rests on a response set, the response set on an adapter, and the
adapter on a federated training. Each has a content-derived key, and cells with a common key share the work. For
example, a post-hoc defense after FedAvg reuses FedAvg's trained adapter.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property

from attacks.base import attacks
from benchmark.errors import FedSafetyError, InputsMissingError, NotApplicableError, SubmissionError
from benchmark.execution.cell_keys import CellKeys, probe_set_digest
from benchmark.execution.likelihoods import likelihood_count
from benchmark.execution.selection import Selection
from benchmark.execution.worlds import open_world
from benchmark.judges.base import judges
from benchmark.methods.pipeline import Pipeline, parse_pipeline
from benchmark.records.identity import cell_key
from benchmark.records.schemas import STATUS_NOT_APPLICABLE
from benchmark.sandbox.proxy import created
from benchmark.suites.suite import Scenario, Suite
from defenses.base import defenses
from tasks.base import TaskWorld
from tasks.hub.fetching import without_fetching


@dataclass(frozen=True)
class CellPlan:
    """One cell to score.

    Attributes:
        scenario: Its scenario.
        pipeline: The defense as submitted.
        stage: The pipeline up to the scored stage.
        seed: Run seed.
        training_key: Key of the federated training.
        adapter_key: Key of the adapter that is served.
        response_key: Key of the responses.
        cell_key: Key of the cell.
        not_applicable: Reason why the cell cannot be scored in this shape; empty if it can.
        flags: Remarks on validity.
        broken: Reason why the cell fails before it runs, for example a submitted method that cannot be constructed;
            empty if there is none.
        local_key: Key of the local training in the first round; empty if clients do not train.
        likelihoods: Number of likelihoods that are measured beside the responses.
    """

    scenario: Scenario
    pipeline: Pipeline
    stage: Pipeline
    seed: int
    training_key: str
    adapter_key: str
    response_key: str
    cell_key: str
    not_applicable: str
    flags: tuple[str, ...]
    broken: str = ""
    local_key: str = ""
    likelihoods: int = 0

    @property
    def runs(self) -> bool:
        """Whether the cell needs a run."""
        return not (self.not_applicable or self.broken)


@dataclass(frozen=True)
class TrainingJob:
    """One federated training and the adapters derived from it: the unit of work of a worker process.

    Attributes:
        scenario: Its scenario.
        seed: Run seed.
        training_key: Key of the training.
        pipelines: Adapter key → pipeline that makes the adapter; includes the bare training if it is a cell.
        reattacks: Adapter key → rounds of the second attack, for adapters that are attacked again after their pipeline.
        local_key: Key of the local training in the first round, which jobs share; empty if clients do not train.
    """

    scenario: Scenario
    seed: int
    training_key: str
    pipelines: dict[str, str]
    reattacks: dict[str, int] = field(default_factory=dict)
    local_key: str = ""


@dataclass(frozen=True)
class Plan:
    """All cells of a run, in order, with their suite and world."""

    suite: Suite
    world: TaskWorld
    generator: str
    cells: tuple[CellPlan, ...]
    missing: tuple[str, ...] = ()
    """Reasons why models or data are missing, in a plan made for display. The keys of such a plan are placeholders."""
    unfetched: tuple[str, ...] = ()
    """Sentences on models and data that a run fetches before it starts, in a plan made for display, likewise."""

    @cached_property
    def jobs(self) -> tuple[TrainingJob, ...]:
        """The distinct trainings, in the order of their first cell, but together if they share a first round."""
        jobs: dict[str, TrainingJob] = {}
        for cell in self.cells:
            if not cell.runs:
                continue
            job = jobs.setdefault(
                cell.training_key,
                TrainingJob(cell.scenario, cell.seed, cell.training_key, pipelines={}, local_key=cell.local_key),
            )
            job.pipelines.setdefault(cell.adapter_key, cell.stage.name)
            if cell.scenario.reattack_rounds:
                job.reattacks[cell.adapter_key] = cell.scenario.reattack_rounds
        groups: dict[str, list[TrainingJob]] = {}
        for key, job in jobs.items():
            groups.setdefault(job.local_key or key, []).append(job)
        return tuple(job for group in groups.values() for job in group)

    @cached_property
    def probe_set(self) -> str:
        """Digest of the world's probes."""
        return probe_set_digest(self.world.probes())


def make_plan(
    suite: Suite,
    generator: str,
    *,
    scenarios: Sequence[str] = (),
    axes: Sequence[str] = (),
    pipelines: Sequence[str] = (),
    seeds: Sequence[int] = (),
    world: TaskWorld | None = None,
    unresolved: bool = False,
) -> Plan:
    """Return the plan of a suite, or of chosen scenarios, sensitivity axes, pipelines and seeds of it.

    Chosen attacked scenarios bring their un-attacked twins along, because scores compare both. Sensitivity points have
    their own pipelines and seeds. Without a chosen scenario or axis, ``pipelines`` and ``seeds`` select among these.

    Args:
        suite: The suite.
        generator: Kind of engine that answers the probes; part of the response keys.
        scenarios: Scenario ids; with ``axes`` empty for all.
        axes: Ids of sensitivity axes, or ``all``.
        pipelines: Defense pipelines; empty for the suite's.
        seeds: Run seeds; empty for the suite's.
        world: World of the probes and their judging, instead of the suite's own. Its checkpoints are the same, and
            trainings and their keys remain those of the suite's world.
        unresolved: Make a plan for display even if models or data are missing.

    Raises:
        UsageError: A name is unknown, an attack refuses its parameters, or a checkpoint is missing.
        InputsMissingError: A model or data set is not on this machine and cannot be obtained now.
    """
    world = world or open_world(suite)
    parts = Selection(suite, tuple(dict.fromkeys(pipelines)), tuple(dict.fromkeys(seeds))).parts(scenarios, axes)
    parsed = {name: parse_pipeline(name) for part in parts for name in part.pipelines}
    broken = _broken_attacks({part.scenario.id: part.scenario for part in parts}.values())
    for judge in suite.judges:
        judges.get(judge)
    keys = CellKeys(suite, world, generator, unresolved=unresolved)
    with without_fetching() if unresolved else nullcontext():
        likelihoods = _likelihoods(world)
    cells: dict[str, CellPlan] = {}
    for seed in dict.fromkeys(seed for part in parts for seed in part.seeds):
        for part in parts:
            for pipeline in (parsed[name] for name in part.pipelines if seed in part.seeds):
                for stage in pipeline.stages:
                    cell = _cell(suite, keys, part.scenario, pipeline, stage, seed, broken.get(part.scenario.id, ""))
                    cells.setdefault(cell.cell_key, replace(cell, likelihoods=likelihoods))
    return Plan(suite, world, generator, tuple(cells.values()), tuple(keys.missing), tuple(keys.unfetched))


def _likelihoods(world: TaskWorld) -> int:
    """Return the number of likelihoods of a response set; 0 in a plan that is shown without its probes."""
    try:
        return likelihood_count(world)
    except InputsMissingError:
        return 0


def _broken_attacks(scenarios: Iterable[Scenario]) -> dict[str, str]:
    """Return scenario → reason, for scenarios whose submitted attack cannot be constructed with its parameters."""
    broken: dict[str, str] = {}
    for scenario in scenarios:
        try:
            with created(attacks.get(scenario.attack.id), scenario.attack.params):
                pass
        except SubmissionError as error:
            broken[scenario.id] = str(error)
    return broken


def _cell(
    suite: Suite, keys: CellKeys, scenario: Scenario, pipeline: Pipeline, stage: Pipeline, seed: int, broken: str
) -> CellPlan:
    """Return a cell of a scenario whose attack is ``broken`` for a reason, if any."""
    artefacts = keys.of(scenario, stage, seed)
    try:
        reason, flags = _applicability(scenario, stage, keys.has_unaligned(scenario))
    except SubmissionError as error:
        reason, flags, broken = "", scenario.flags, str(error)
    # The key covers every column of a cell's row beside its artefacts. Otherwise a changed suite would keep old rows.
    covered = {
        "suite": suite.id,
        "suite_version": suite.version,
        "primary_judge": suite.primary_judge,
        "scenario": scenario.id,
        "scenario_version": scenario.version,
        "twin": scenario.twin,
        "defense": pipeline.name,
        "stage": stage.name,
        "ranked": pipeline.ranked,
        "seed": seed,
        "status": STATUS_NOT_APPLICABLE if reason else "",
        "reason": reason,
        "flags": flags,
        "response_key": artefacts.response,
    }
    return CellPlan(
        scenario=scenario,
        pipeline=pipeline,
        stage=stage,
        seed=seed,
        training_key=artefacts.training,
        adapter_key=artefacts.adapter,
        response_key=artefacts.response,
        cell_key=cell_key(covered),
        not_applicable=reason,
        flags=flags,
        broken=broken,
        local_key=artefacts.local,
    )


def _applicability(scenario: Scenario, stage: Pipeline, has_unaligned: bool) -> tuple[str, tuple[str, ...]]:
    """Return the reason why a stage cannot run in a scenario (empty if it can), and the stage's flags.

    Args:
        scenario: The scenario.
        stage: The stage.
        has_unaligned: Whether the server has the model from which the start model was aligned.
    """
    flags = list(scenario.flags)
    shape = (scenario.participants, scenario.declared_malicious)
    for entry in stage.entries:
        if entry.info.needs_alignment and not has_unaligned:
            reason = f"{entry.info.id} compares the start model with the model before its alignment"
            return f"{reason}, and the start {scenario.start!r} has no such model", tuple(flags)
        try:
            with created(entry) as defense:
                defense.check_shape(*shape)
                same = defense.degenerate_as(*shape)
        except NotApplicableError as error:
            return str(error), tuple(flags)
        except FedSafetyError:
            raise
        except Exception as error:
            raise FedSafetyError(
                f"defense {entry.info.id!r} fails when its shape is checked ({type(error).__name__}: {error}); mend "
                f"its constructor, check_shape() or degenerate_as(), or leave it out with --defense"
            ) from error
        if same:
            flags.append(f"degenerate: {entry.info.id} is the same function as {same} at n={shape[0]}, f={shape[1]}")
        origin = entry.info.variant_of
        if origin and same != origin:
            role = "replaces" if _defined(origin, shape) else "stands in for"
            reason = "" if role == "replaces" else ", whose condition fails here"
            flags.append(f"variant: {entry.info.id} {role} {origin}{reason}")
    return "", tuple(flags)


def _defined(name: str, shape: tuple[int, int]) -> bool:
    """Return whether a defense's condition holds in a shape."""
    try:
        with created(defenses.get(name)) as defense:
            defense.check_shape(*shape)
    except NotApplicableError:
        return False
    return True
