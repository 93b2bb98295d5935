"""From a suite to the work: cells, what each rests on, and what is already there.

A cell is one (scenario, defense, seed, stage). It rests on a response set, that on an adapter, that on a federated
training; each has a content-derived key, and cells that share a key share the work: a post-hoc defense on top of
FedAvg re-uses FedAvg's trained adapter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from attacks.base import attacks
from benchmark import PROTOCOL_VERSION
from benchmark.errors import FedSafetyError, InputsMissingError, NotApplicableError, SubmissionError, UsageError
from benchmark.execution.worlds import (
    ATTACKER_MODEL,
    EXTERNAL_MODEL,
    attacker_role,
    open_chat,
    open_world,
    world_revision,
)
from benchmark.judges.base import judges
from benchmark.keys import content_key
from benchmark.methods.pipeline import Pipeline, default_aggregate_digest, method_digest, parse_pipeline
from benchmark.sandbox.proxy import created
from benchmark.suites.sensitivity import Axis, SensitivityScenario
from benchmark.suites.suite import Scenario, Suite
from defenses.base import defenses
from tasks.base import Probe, TaskWorld


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
        not_applicable: Why the cell cannot be scored in this shape; empty if it can.
        flags: Remarks on validity.
        broken: Why the cell fails before it is run: a submitted method that cannot even be asked; empty if it can.
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

    @property
    def runs(self) -> bool:
        """Whether there is anything to run for it."""
        return not (self.not_applicable or self.broken)


@dataclass(frozen=True)
class TrainingJob:
    """One federated training and the adapters that are derived from it; what a worker does in one go.

    Attributes:
        scenario: Its scenario.
        seed: Run seed.
        training_key: Key of the training.
        pipelines: For each adapter key the pipeline that makes it; the bare training is among them if it is a cell.
        reattacks: For each adapter key that is attacked again after its pipeline, the rounds of it.
    """

    scenario: Scenario
    seed: int
    training_key: str
    pipelines: dict[str, str]
    reattacks: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """All cells of a run, in order, with the suite and world they belong to."""

    suite: Suite
    world: TaskWorld
    generator: str
    cells: tuple[CellPlan, ...]
    missing: tuple[str, ...] = ()
    """Of a plan that is made to be looked at: why models or data are not here. Its keys stand for nothing."""

    @cached_property
    def jobs(self) -> tuple[TrainingJob, ...]:
        """The distinct trainings, in the order of their first cell."""
        jobs: dict[str, TrainingJob] = {}
        for cell in self.cells:
            if not cell.runs:
                continue
            job = jobs.setdefault(
                cell.training_key, TrainingJob(cell.scenario, cell.seed, cell.training_key, pipelines={})
            )
            job.pipelines.setdefault(cell.adapter_key, cell.stage.name)
            if cell.scenario.reattack_rounds:
                job.reattacks[cell.adapter_key] = cell.scenario.reattack_rounds
        return tuple(jobs.values())

    @cached_property
    def probe_set(self) -> str:
        """Digest of the world's probes."""
        return probe_set_digest(self.world.probes())


def probe_set_digest(probes: Sequence[Probe]) -> str:
    """Return the digest of a probe set."""
    return content_key([[p.id, p.kind, p.stratum, p.scored, p.instruction, p.max_new_tokens] for p in probes])


def suite_pipelines(suite: Suite) -> list[str]:
    """Return the names of the pipelines that a suite runs in every scenario of its ranking, in order of listing.

    ``all`` means every registered defense that is not a variant: reference rows last.
    """
    if suite.defenses != "all":
        return [*suite.defenses, *suite.pipelines]
    entries = [entry for entry in defenses.entries() if not entry.info.variant_of]
    ranked = [entry.info.id for entry in entries if entry.info.ranked]
    reference = [entry.info.id for entry in entries if not entry.info.ranked]
    return [*ranked, *suite.pipelines, *reference]


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

    Chosen attacked scenarios bring their un-attacked twins along, since scores are read against them. Sensitivity
    points have their own pipelines and seeds; where no scenario and no axis is chosen, chosen pipelines and seeds only
    pick among those.

    Args:
        suite: The suite.
        generator: Kind of engine that answers the probes; part of the response keys.
        scenarios: Scenario ids; with ``axes`` empty for all.
        axes: Ids of sensitivity axes, or ``all``.
        pipelines: Defense pipelines; empty for the suite's.
        seeds: Run seeds; empty for the suite's.
        world: What the probes and their judging come from instead of the suite's own world; its checkpoints are the
            same. Trainings and their keys stay those of the suite's world.
        unresolved: Make a plan to be looked at, also where models or data are not here.

    Raises:
        UsageError: A name is unknown, an attack refuses its parameters, or a checkpoint is missing.
        InputsMissingError: A model or data set is not here and cannot be had now.
    """
    world = world or open_world(suite)
    parts = _Selection(suite, tuple(dict.fromkeys(pipelines)), tuple(dict.fromkeys(seeds))).parts(scenarios, axes)
    parsed = {name: parse_pipeline(name) for part in parts for name in part.pipelines}
    broken = _broken_attacks({part.scenario.id: part.scenario for part in parts}.values())
    for judge in suite.judges:
        judges.get(judge)
    keys = _Keys(suite, world, generator, broken, unresolved=unresolved)
    cells: dict[str, CellPlan] = {}
    for seed in dict.fromkeys(seed for part in parts for seed in part.seeds):
        for part in parts:
            for pipeline in (parsed[name] for name in part.pipelines if seed in part.seeds):
                for stage in pipeline.stages:
                    cell = keys.cell(part.scenario, pipeline, stage, seed)
                    cells.setdefault(cell.cell_key, cell)
    return Plan(suite, world, generator, tuple(cells.values()), tuple(keys.missing))


def _broken_attacks(scenarios: Iterable[Scenario]) -> dict[str, str]:
    """Try each scenario's attack with its parameters; return by scenario why a submitted one cannot be made."""
    broken: dict[str, str] = {}
    for scenario in scenarios:
        try:
            with created(attacks.get(scenario.attack.id), scenario.attack.params):
                pass
        except SubmissionError as error:
            broken[scenario.id] = str(error)
    return broken


@dataclass(frozen=True)
class _Part:
    """Part of a plan: pipelines and seeds to run in a scenario."""

    scenario: Scenario
    pipelines: tuple[str, ...]
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class _Selection:
    """What was chosen of a suite."""

    suite: Suite
    pipelines: tuple[str, ...]
    seeds: tuple[int, ...]

    def parts(self, scenarios: Sequence[str], axes: Sequence[str]) -> list[_Part]:
        """Return what to run, in the order of the suite."""
        if not scenarios and not axes:
            return [*map(self._main, self.suite.scenarios), *map(self._among, self.suite.points)]
        chosen = [self.suite.scenario(name) for name in scenarios]
        main = [scenario for scenario in chosen if not isinstance(scenario, SensitivityScenario)]
        wanted = {name for scenario in main for name in (scenario.id, scenario.twin)}
        points = [scenario for scenario in chosen if isinstance(scenario, SensitivityScenario)]
        return [
            *(self._main(scenario) for scenario in self.suite.scenarios if scenario.id in wanted),
            *(part for point in points for part in self._with_twin(point, point.defenses, point.seeds, ())),
            *(part for axis in self._axes(axes) for part in self._along(axis)),
        ]

    def _main(self, scenario: Scenario) -> _Part:
        variants = [_known_variant(name) for name in scenario.variants]
        names = self.pipelines or (*suite_pipelines(self.suite), *variants)
        return _Part(scenario, names, self.seeds or tuple(dict.fromkeys(self.suite.seeds)))

    def _among(self, point: SensitivityScenario) -> _Part:
        """Return of a point's own pipelines and seeds those that were chosen."""
        names = tuple(name for name in point.defenses if not self.pipelines or name in self.pipelines)
        seeds = tuple(seed for seed in point.seeds if not self.seeds or seed in self.seeds)
        return _Part(point, names, seeds)

    def _axes(self, names: Sequence[str]) -> list[Axis]:
        section = self.suite.sensitivity
        if names and section is None:
            raise UsageError(f"suite {self.suite.id!r} has no sensitivity axes; leave --axis out")
        if section is None:
            return []
        return list(section.axes) if "all" in names else [section.axis(name) for name in dict.fromkeys(names)]

    def _along(self, axis: Axis) -> list[_Part]:
        section = self.suite.sensitivity
        assert section is not None
        parts: list[_Part] = []
        for point in axis.points:
            names, twins = section.defenses_of(axis, point), section.twin_defenses_of(axis, point)
            parts += self._with_twin(self.suite.scenario(point.name), names, section.seeds_of(axis), twins)
        return parts

    def _with_twin(
        self, scenario: Scenario, names: tuple[str, ...], seeds: tuple[int, ...], twins: tuple[str, ...]
    ) -> list[_Part]:
        twin = self.suite.scenario(scenario.twin)
        if isinstance(twin, SensitivityScenario):
            twins = twin.defenses
        assert self.suite.sensitivity is not None
        twins = twins or self.suite.sensitivity.defenses[:1]
        parts = [(scenario, names), (twin, twins)][: 2 if scenario.attacked else 1]
        return [_Part(where, self.pipelines or what, self.seeds or seeds) for where, what in parts]


def _known_variant(name: str) -> str:
    if not defenses.get(name).info.variant_of:
        raise UsageError(f"scenario lists {name!r} as a variant, but it is a defense of its own; remove it there")
    return name


class _Keys:
    """Makes the keys of cells; caches what is the same for many."""

    def __init__(
        self,
        suite: Suite,
        world: TaskWorld,
        generator: str,
        broken_attacks: Mapping[str, str],
        *,
        unresolved: bool = False,
    ) -> None:
        self._suite, self._world, self._generator = suite, world, generator
        self._broken_attacks = broken_attacks
        self._unresolved = unresolved
        self.missing: dict[str, None] = {}
        self._probe_set = self._resolved("probes", lambda: probe_set_digest(world.probes()))
        self._models: dict[str, str] = {}
        self._revisions: dict[str, str] = {}
        self._chats: dict[str, str] = {}

    def cell(self, scenario: Scenario, pipeline: Pipeline, stage: Pipeline, seed: int) -> CellPlan:
        training = self.training(scenario, stage, seed)
        adapter = self._adapter(training, stage)
        if scenario.reattack_rounds:
            adapter = _reattacked(adapter, scenario.reattack_rounds)
        response = self._response(adapter, stage, scenario)
        broken = self._broken_attacks.get(scenario.id, "")
        try:
            reason, flags = _applicability(scenario, stage)
        except SubmissionError as error:
            reason, flags, broken = "", scenario.flags, str(error)
        # Whatever a cell's row says beside its artefacts is part of its key, or a changed suite would keep old rows.
        identity = [
            [self._suite.id, self._suite.version, self._suite.primary_judge],
            [scenario.id, scenario.version, scenario.twin],
            [pipeline.name, stage.name, pipeline.ranked, seed],
            [reason, *flags],
            response,
        ]
        return CellPlan(
            scenario=scenario,
            pipeline=pipeline,
            stage=stage,
            seed=seed,
            training_key=training,
            adapter_key=adapter,
            response_key=response,
            cell_key=content_key(["cell", *identity]),
            not_applicable=reason,
            flags=flags,
            broken=broken,
        )

    def training(self, scenario: Scenario, stage: Pipeline, seed: int) -> str:
        attack = attacks.get(scenario.attack.id)
        aggregator = [stage.aggregator] if stage.aggregator else []
        shape = scenario.model_dump(
            include={"start", "clients", "participants", "malicious", "declared_malicious", "partition"}, mode="json"
        )
        attacker = attacker_role(self._world)
        roles = {ATTACKER_MODEL: attacker} if attacker in self._world.roles else {}
        return content_key(
            {
                "artefact": "training",
                "protocol": PROTOCOL_VERSION,
                "world": [self._suite.world, self._revision(scenario)],
                "models": {name: self.model(role) for name, role in {**roles, scenario.start: scenario.start}.items()},
                "lora": self._suite.lora.model_dump(mode="json"),
                "training": self._suite.training.model_dump(mode="json"),
                "shape": shape,
                "refusal_share": scenario.refusal_share,
                "attack": [attack.info.id, attack.source_digest, scenario.attack.params],
                "aggregator": method_digest(aggregator),
                "default_aggregate": default_aggregate_digest(),
                "seed": seed,
            }
        )

    def model(self, role: str) -> str:
        """Return what identifies a role's model; nothing where the world lacks the role."""
        if role not in self._models:
            known = role in self._world.roles
            self._models[role] = (
                self._resolved(f"model {role}", lambda: self._world.checkpoint(role).identity) if known else ""
            )
        return self._models[role]

    def _revision(self, scenario: Scenario) -> str:
        """Return the identity of a scenario's data."""
        if scenario.id not in self._revisions:
            self._revisions[scenario.id] = self._resolved(
                f"data of {scenario.id}", lambda: world_revision(self._suite, open_world(self._suite, scenario))
            )
        return self._revisions[scenario.id]

    def _resolved(self, what: str, find: Callable[[], str]) -> str:
        """Return what ``find`` finds, or a placeholder in a plan that is only looked at."""
        try:
            return find()
        except InputsMissingError as error:
            if not self._unresolved:
                raise
            self.missing.setdefault(str(error))
            return f"unresolved {what}"

    def _adapter(self, training: str, stage: Pipeline) -> str:
        if not stage.finalizers:
            return training
        return content_key(
            {
                "artefact": "adapter",
                "training": training,
                "finalizers": method_digest(stage.finalizers),
                "posthoc": self._suite.posthoc.model_dump(mode="json"),
                "external": self.model(EXTERNAL_MODEL),
            }
        )

    def _response(self, adapter: str, stage: Pipeline, scenario: Scenario) -> str:
        decoding = self._suite.decoding
        sampled = {"decoding": decoding.model_dump(mode="json")} if decoding.temperature else {}
        return content_key(
            {
                "artefact": "responses",
                "adapter": adapter,
                "servers": method_digest(stage.servers),
                "probes": self._probe_set,
                "chat": self._chat(scenario.start),
                "generator": self._generator,
                **sampled,
                **self._world.response_choices,
            }
        )

    def _chat(self, role: str) -> str:
        if role not in self._chats:
            self._chats[role] = self._resolved(f"model {role}", lambda: open_chat(self._world, role).digest)
        return self._chats[role]


def _reattacked(adapter: str, rounds: int) -> str:
    """Return the key of an adapter after a second federation, by the base class's FedAvg, that starts from it."""
    average = default_aggregate_digest()
    return content_key({"artefact": "reattacked", "adapter": adapter, "rounds": rounds, "default_aggregate": average})


def _applicability(scenario: Scenario, stage: Pipeline) -> tuple[str, tuple[str, ...]]:
    """Return why a stage cannot run in a scenario's shape (or nothing), and its flags."""
    flags = list(scenario.flags)
    shape = (scenario.participants, scenario.declared_malicious)
    for entry in stage.entries:
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
    """Whether a defense's condition holds in a shape."""
    try:
        with created(defenses.get(name)) as defense:
            defense.check_shape(*shape)
    except NotApplicableError:
        return False
    return True
