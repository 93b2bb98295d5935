"""Suites: the fixed protocol, as versioned YAML that is validated before anything runs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from benchmark.errors import UsageError, unknown_name
from benchmark.registry import NameIndex
from benchmark.settings import Settings
from benchmark.suite_names import GROUP, bundled_files, suite_file
from benchmark.suites.alignment import AlignmentSettings
from benchmark.suites.scenario import (
    AttackSettings,
    DefenseIds,
    Partition,
    PosthocSettings,
    Scenario,
    TrainingSettings,
)
from benchmark.suites.sensitivity import Sensitivity, SensitivityScenario, expand
from benchmark.suites.settings import BASELINE, Adapters, LoraSettings, Seed, merging_obstacle
from tasks.base import ProbeKind
from tasks.hub.settings import DataChoice, DatasetSource, HubData, Identifier
from tasks.model_source import ModelSource

__all__ = [
    "AttackSettings",
    "Compute",
    "Decoding",
    "Partition",
    "PosthocSettings",
    "QuickSettings",
    "Scenario",
    "Suite",
    "Tier",
    "TrainingSettings",
    "find_suite",
    "read_suite",
    "scenarios",
    "suites",
]


class QuickSettings(Settings):
    """The small set that a first call runs."""

    scenarios: tuple[str, ...]
    """Scenario ids."""
    seeds: tuple[Seed, ...]
    """Run seeds."""
    defenses: tuple[str, ...] = ()
    """Ids and compositions among the suite's; empty for all of them."""

    added: ClassVar[frozenset[str]] = frozenset({"defenses"})


class Decoding(Settings):
    """Settings with which probes are answered."""

    temperature: float = Field(default=0.0, ge=0)
    """Softmax temperature; 0 takes the likeliest token."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Share of probability that is sampled from."""
    adapters: Adapters = "lora"
    """Way to apply an adapter: ``lora`` adds its product in every layer, ``merged`` adds it to the weights, which is
    faster on a processor and rounds in another way."""

    added: ClassVar[frozenset[str]] = frozenset({"adapters"})


class Compute(Settings):
    """Use of a machine. Keys leave it out, because it changes results by rounding only."""

    tensor_parallel: int = Field(default=1, ge=1)
    """GPUs that share the answering model."""
    gpu_memory_fraction: float = Field(default=0.9, gt=0, lt=1)
    """Share of a GPU's memory that the answering engine takes."""
    max_batch: int = Field(default=256, ge=1)
    """Sequences that are answered at once."""
    max_loras: int = Field(default=8, ge=1)
    """Adapters in one batch."""
    max_length: int | None = Field(default=None, ge=2)
    """Longest prompt with its answer, in tokens; by default the model's limit, at most 4,096."""
    train_memory_gib: float | None = Field(default=None, gt=0)
    """Memory for the activations of a training step, which is divided until it fits; by default 80 % of a GPU's free
    memory, and without limit on a processor."""


class Tier(Settings):
    """A smaller form of a suite, as a suite of its own: its rows never mix with those of the whole."""

    title: str = Field(min_length=1)
    """Short human name."""
    description: str = Field(min_length=20)
    """One paragraph."""
    scenarios: tuple[str, ...] = Field(min_length=1)
    """Scenario ids; their twins come along."""
    seeds: tuple[Seed, ...] = ()
    """Run seeds; none for the suite's."""
    defenses: DefenseIds | None = None
    """Defenses; none for the suite's."""
    pipelines: tuple[str, ...] | None = None
    """Compositions; none for the suite's."""
    judges: tuple[str, ...] = ()
    """Judges; none for the suite's."""
    primary_judge: str = ""
    """Judge of the headline score; none for the suite's."""
    tasks: tuple[str, ...] | None = None
    """Tasks of lm-evaluation-harness; none for the suite's."""
    training: dict[str, Any] = Field(default_factory=dict)
    """Settings of local training that differ."""
    posthoc: dict[str, Any] = Field(default_factory=dict)
    """Settings of server-side fine-tuning that differ."""
    probe_limit: int | None = Field(default=None, ge=1)
    """Probes of each set, spread evenly over it; none for all."""


class Suite(Settings):
    """Model, federation shape, scenarios, defenses, seeds and judges under one versioned name."""

    id: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    """Registry id."""
    version: str
    """Changes with any setting on which existing cells depend. Additions (a seed, a scenario, a sensitivity point, a
    defense) do not change it, because existing cells stay comparable with new ones."""
    title: str
    """Short human name."""
    description: str = Field(min_length=20)
    """One paragraph."""
    world: str
    """Task world."""
    models: dict[Identifier, ModelSource] = Field(default_factory=dict)
    """Models by role, for worlds that bring none: starting models, ``attacker``, ``external``, judges by their id."""
    data: HubData | None = None
    """Training rows and probes, for worlds that bring none."""
    decoding: Decoding = Decoding()
    """Settings with which probes are answered."""
    compute: Compute = Compute()
    """Use of a machine."""
    publishable: bool = True
    """Whether rows may be committed; false for a suite that only shows that everything works."""
    tiers: dict[Identifier, Tier] = Field(default_factory=dict)
    """Smaller forms; tier ``lite`` of suite ``paper`` is the suite ``paper_lite``."""
    lora: LoraSettings
    """Adapter shape."""
    training: TrainingSettings
    """Local training."""
    posthoc: PosthocSettings
    """Server-side fine-tuning."""
    alignment: AlignmentSettings | None = None
    """Alignment of the start model before the federation; none for a start model as its checkpoint has it."""
    judges: tuple[str, ...] = Field(min_length=1)
    """Judges of all responses."""
    primary_judge: str
    """Judge of the headline score."""
    judge_of: dict[str, str] = Field(default_factory=dict)
    """Judge of ``over_refusal`` or ``utility``; by default the primary one or else the first that judges the kind."""
    seeds: tuple[Seed, ...] = Field(min_length=1)
    """Run seeds."""
    defenses: DefenseIds = "all"
    """Defenses, or every registered one that is not a variant."""
    unscored: dict[Identifier, str] = Field(default_factory=dict)
    """Registered defenses that ``all`` leaves out, each with the reason, a sentence for readers of the board."""
    pipelines: tuple[str, ...] = ()
    """Compositions to run besides, for example ``krum+posthoc_self``."""
    tasks: tuple[str, ...] = ()
    """Tasks of lm-evaluation-harness that also score every served adapter; keys leave them out."""
    quick: QuickSettings
    """Cells that ``--quick`` runs."""
    scenarios: tuple[Scenario, ...] = Field(min_length=1)
    """Scenarios, in the order they are shown."""
    sensitivity: Sensitivity | None = None
    """Scores along one setting at a time; shown apart from the ranking."""

    added: ClassVar[frozenset[str]] = frozenset(
        {"models", "data", "decoding", "compute", "publishable", "tiers", "judge_of", "alignment", "unscored"}
    )

    def aligned(self, scenario: Scenario) -> AlignmentSettings | None:
        """Return the alignment of a scenario's start model, or ``None`` if it starts unaligned."""
        return self.alignment if self.alignment and self.alignment.start == scenario.start else None

    def seeds_of(self, scenario: Scenario) -> tuple[int, ...]:
        """Return the run seeds of a scenario: its own, or the suite's."""
        return scenario.seeds or tuple(dict.fromkeys(self.seeds))

    @property
    def points(self) -> tuple[SensitivityScenario, ...]:
        """Scenarios that the sensitivity points add, with the twins that they need."""
        return expand(self.sensitivity, self.scenarios) if self.sensitivity else ()

    @property
    def fetches(self) -> bool:
        """Whether a run fetches files before it starts: models of packages, or data of GitHub."""
        data = (self.data.pools.values(), (probe.source for probe in self.data.probes)) if self.data else ()
        return any(source.package for source in self.models.values()) or any(
            source.github for sources in data for source in sources
        )

    @property
    def every_scenario(self) -> tuple[Scenario, ...]:
        """The scenarios, then the sensitivity points."""
        return (*self.scenarios, *self.points)

    @model_validator(mode="after")
    def _names_agree(self) -> Self:
        ids = [scenario.id for scenario in self.scenarios]
        if len(set(ids)) != len(ids):
            raise ValueError(f"scenario ids repeat: {sorted({i for i in ids if ids.count(i) > 1})}; rename all but one")
        by_id = {scenario.id: scenario for scenario in self.scenarios}
        self._check_sources(self.scenarios)
        for scenario in self.scenarios:
            if scenario.twin not in by_id:
                raise ValueError(
                    f"scenario {scenario.id!r} names the twin {scenario.twin!r}, which the suite lacks; "
                    f"add it or name one of {', '.join(ids)}"
                )
            _check_twin(scenario, by_id[scenario.twin])
            self._check_extent(scenario, by_id[scenario.twin])
        # Expanding the sensitivity points validates them.
        self._check_sources(self.points)
        for name in self.quick.scenarios:
            if name not in by_id:
                raise ValueError(f"quick names scenario {name!r}, which the suite lacks; known: {', '.join(ids)}")
        self._check_roster("defense of quick", self.quick.defenses)
        if self.primary_judge not in self.judges:
            raise ValueError(
                f"primary_judge {self.primary_judge!r} is not among the judges {list(self.judges)}; add it there"
            )
        for kind, judge in self.judge_of.items():
            if kind not in ("over_refusal", "utility"):
                raise ValueError(str(unknown_name("kind in judge_of", kind, ["over_refusal", "utility"])))
            if judge not in self.judges:
                raise ValueError(
                    f"judge_of names {judge!r} for {kind}, which is not among the judges {list(self.judges)}; "
                    f"add it there"
                )
        for scenario in self.every_scenario:
            _check_rows_suffice(self.under(scenario).training, f"scenario {scenario.id!r}: ")
        return self

    @model_validator(mode="after")
    def _adapters_can_be_merged(self) -> Self:
        if self.decoding.adapters != "merged":
            return self
        for scenario in self.scenarios:
            source = self.models.get(scenario.start)
            obstacle = merging_obstacle(source.quantization if source else "", self.compute.tensor_parallel)
            if obstacle:
                raise ValueError(f"adapters cannot be merged into the model {scenario.start!r}: {obstacle}")
        return self

    def _check_extent(self, scenario: Scenario, twin: Scenario) -> None:
        """Check that a scenario's own defenses are the suite's, and that its twin runs on all of its seeds."""
        self._check_roster(f"defense of scenario {scenario.id}", scenario.defenses)
        lacks_baseline = bool(scenario.defenses) and BASELINE not in scenario.defenses
        if lacks_baseline and _in_roster(BASELINE, self.defenses, self.pipelines):
            raise ValueError(
                f"the defenses {list(scenario.defenses)} of scenario {scenario.id!r} lack {BASELINE!r}, with which "
                f"every score is compared; add it"
            )
        lacking = sorted(set(self.seeds_of(scenario)) - set(self.seeds_of(twin)))
        if lacking:
            raise ValueError(
                f"scenario {scenario.id!r} runs on seeds that its twin {twin.id!r} lacks: "
                f"{', '.join(map(str, lacking))}; give the twin all seeds of the scenario"
            )

    def _check_roster(self, what: str, names: Sequence[str]) -> None:
        """Check that defenses are among the suite's."""
        roster = [name for name in self.defenses if self.defenses != "all"] + [*self.pipelines]
        for name in names:
            if not _in_roster(name, self.defenses, self.pipelines):
                raise ValueError(str(unknown_name(f"{what}, which is not among the suite's", name, roster)))

    def _check_sources(self, scenarios: Sequence[Scenario]) -> None:
        """Check that the models, pools and scenarios that ``scenarios`` and tiers name exist."""
        pools = self.data.pools if self.data else {}
        for scenario in scenarios:
            if self.models and scenario.start not in self.models:
                raise ValueError(
                    str(unknown_name(f"start model of scenario {scenario.id}", scenario.start, self.models))
                )
            if (self.data is None) != (scenario.data is None):
                has, lacks = ("the scenario", "the suite") if self.data is None else ("the suite", "the scenario")
                raise ValueError(
                    f"scenario {scenario.id!r}: {has} has 'data' and {lacks} has none; the sources (data of the suite) "
                    f"and the choice among them (data of each scenario) go together"
                )
            for role, pool in scenario.data.pools.items() if scenario.data else ():
                if pool not in pools:
                    raise ValueError(str(unknown_name(f"pool ({role} of scenario {scenario.id})", pool, pools)))
        self._check_alignment(pools)
        ids = [scenario.id for scenario in self.scenarios]
        for name, tier in self.tiers.items():
            for scenario_id in tier.scenarios:
                if scenario_id not in ids:
                    raise ValueError(str(unknown_name(f"scenario of tier {name}", scenario_id, ids)))

    def under(self, scenario: Scenario) -> Suite:
        """Return the suite with the settings of local training that hold in a scenario.

        Raises:
            ValueError: The scenario's settings contradict those of the suite.
        """
        changes = scenario.training.model_dump()
        if not changes:
            return self
        try:
            training = TrainingSettings.model_validate(self.training.model_dump() | changes)
        except ValidationError as error:
            message = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise ValueError(f"training of scenario {scenario.id!r}: {message}") from error
        return self.model_copy(update={"training": training})

    def _check_alignment(self, pools: Mapping[str, DatasetSource]) -> None:
        """Check that the role, the pools and the probe sets that the alignment names exist."""
        alignment = self.alignment
        if alignment is None:
            return
        if self.data is None or not self.models:
            lacks = "data" if self.data is None else "models"
            raise ValueError(
                f"alignment needs training rows and a model, but the suite has no {lacks!r}: its world brings its own; "
                f"leave alignment out, or choose a world that reads models and data, such as hub"
            )
        if alignment.start not in self.models:
            raise ValueError(str(unknown_name("start model of the alignment", alignment.start, self.models)))
        for pool in alignment.data:
            if pool not in pools:
                raise ValueError(str(unknown_name("pool of the alignment", pool, pools)))
        wanted = {"harmful": ProbeKind.HARMFUL, "benign": ProbeKind.OVER_REFUSAL} if alignment.expects else {}
        kinds = {probe.id: probe.kind for probe in self.data.probes}
        for setting, kind in wanted.items():
            name = getattr(alignment.expects, setting)
            if name in self.data.development:
                continue
            if name not in kinds:
                known = [*self.data.development, *kinds]
                raise ValueError(str(unknown_name(f"set of prompts ({setting} of alignment.expects)", name, known)))
            if kinds[name] is not kind:
                raise ValueError(
                    f"alignment.expects names {name!r} as {setting}, which holds probes of kind {kinds[name].value!r}; "
                    f"name a set of kind {kind.value!r}"
                )

    def tier(self, name: str) -> Suite:
        """Return a smaller form as a suite of its own, called ``<id>_<name>``.

        Raises:
            UsageError: There is no such tier, or its settings do not fit.
        """
        if name not in self.tiers:
            raise unknown_name(f"tier of suite {self.id}", name, self.tiers)
        tier = self.tiers[name]
        ids = {id_ for scenario in tier.scenarios for id_ in (scenario, self.scenario(scenario).twin)}
        seeds = tier.seeds or self.seeds
        judges = tier.judges or self.judges
        content = self.model_dump() | {
            "id": f"{self.id}_{name}",
            "title": tier.title,
            "description": tier.description,
            "seeds": seeds,
            "quick": {"scenarios": tier.scenarios[:1], "seeds": seeds[:1]},
            "scenarios": [s.model_dump() | self._extent_in(name, tier, s) for s in self.scenarios if s.id in ids],
            "judges": judges,
            "judge_of": {kind: judge for kind, judge in self.judge_of.items() if judge in judges},
            "primary_judge": tier.primary_judge or self.primary_judge,
            "training": self.training.model_dump() | tier.training,
            "posthoc": self.posthoc.model_dump() | tier.posthoc,
            "sensitivity": None,
            "tiers": {},
        }
        if self.alignment:
            content["alignment"] = self.alignment  # the instance has the folder of the suite file
        for setting in ("defenses", "pipelines", "tasks"):
            if getattr(tier, setting) is not None:
                content[setting] = getattr(tier, setting)
        if tier.probe_limit and self.data:
            probes = [p.model_copy(update={"limit": _least(p.limit, tier.probe_limit)}) for p in self.data.probes]
            content["data"] = self.data.model_copy(update={"probes": tuple(probes)}).model_dump()
        try:
            return Suite.model_validate(content)
        except ValidationError as error:
            problems = "; ".join(_explain(problem, content) for problem in error.errors())
            raise UsageError(f"tier {name!r} of suite {self.id!r} is not valid: {problems}") from error

    def _extent_in(self, name: str, tier: Tier, scenario: Scenario) -> dict[str, Any]:
        """Return those of a scenario's own seeds and defenses that a tier keeps.

        Raises:
            UsageError: The tier keeps none of them.
        """
        defenses = self.defenses if tier.defenses is None else tier.defenses
        pipelines = self.pipelines if tier.pipelines is None else tier.pipelines
        kept: dict[str, tuple[Any, ...]] = {
            "seeds": tuple(seed for seed in scenario.seeds if seed in (tier.seeds or scenario.seeds)),
            "defenses": tuple(each for each in scenario.defenses if _in_roster(each, defenses, pipelines)),
        }
        for setting, values in kept.items():
            own = getattr(scenario, setting)
            if own and not values:
                raise UsageError(
                    f"tier {name!r} of suite {self.id!r} leaves scenario {scenario.id!r} without {setting}: its own "
                    f"are {', '.join(map(str, own))}; give the tier one of them, or leave the scenario out of it"
                )
        return kept

    def scenario(self, name: str) -> Scenario:
        """Return the scenario called ``name``; raises :class:`UsageError` with the nearest name if there is none."""
        by_id = {scenario.id: scenario for scenario in self.every_scenario}
        if name not in by_id:
            raise unknown_name(f"scenario in suite {self.id}", name, by_id)
        return by_id[name]


def _check_rows_suffice(training: TrainingSettings, where: str) -> None:
    per_round = training.local_steps * training.batch_size
    if per_round > training.rows_per_client:
        raise ValueError(
            f"{where}a round draws {per_round} rows without replacement, but a client holds "
            f"{training.rows_per_client}; lower local_steps or batch_size"
        )


def _in_roster(name: str, defenses: tuple[str, ...] | str, pipelines: Sequence[str]) -> bool:
    """Return whether a suite with these defenses and compositions runs a defense.

    With ``all``, every name of a single defense counts; making a plan finds the unknown ones.
    """
    return name in pipelines or ("+" not in name if defenses == "all" else name in defenses)


def _least(first: int | None, second: int) -> int:
    return second if first is None else min(first, second)


def _check_twin(scenario: Scenario, twin: Scenario) -> None:
    if twin.attack.id != "none":
        raise ValueError(
            f"scenario {scenario.id!r} names the twin {twin.id!r}, which is attacked by {twin.attack.id!r}; "
            f"name a scenario with the attack 'none'"
        )
    if twin.attacked:
        raise ValueError(
            f"scenario {scenario.id!r} names the twin {twin.id!r}, which names {twin.twin!r} as its own; "
            f"an un-attacked scenario names itself"
        )
    shared = (
        "start",
        "clients",
        "participants",
        "declared_malicious",
        "partition",
        "refusal_share",
        "variants",
        "data",
        "training",
    )
    for name in (*shared, "reattack_rounds"):
        if _without_attack(getattr(scenario, name)) != _without_attack(getattr(twin, name)):
            raise ValueError(
                f"scenario {scenario.id!r} and its twin {twin.id!r} differ in {name}: "
                f"{getattr(scenario, name)!r} and {getattr(twin, name)!r}; make them equal"
            )


def _without_attack(setting: Any) -> Any:
    """Return a setting without the attackers' source of rows, which twins do not need."""
    return setting.model_copy(update={"unaligned": ""}) if isinstance(setting, DataChoice) else setting


class _Loader(yaml.SafeLoader):
    """The safe loader with the words of YAML 1.2: ``no`` is a word, and so are dates, ``12:30`` and ``0123``.

    It refuses a repeated key in a mapping instead of keeping the last.
    """

    _WHOLE = re.compile(r"[-+]?(?:0|[1-9][0-9]*|0x[0-9a-fA-F]+)")

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        tag = super().resolve(kind, value, implicit)  # type: ignore[no-untyped-call]
        if kind is not yaml.ScalarNode or not implicit[0]:
            return tag
        is_word = {
            "bool": value.casefold() not in ("true", "false"),
            "int": not self._WHOLE.fullmatch(value),
            "float": ":" in value,
            "timestamp": True,
        }.get(str(tag).rpartition(":")[2], False)
        return self.DEFAULT_SCALAR_TAG if is_word else tag

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # Check before ``<<`` is merged, because a key may override a merged key.
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            line, name = key.start_mark.line + 1, (key.tag, key.value)
            if name in lines:
                raise yaml.YAMLError(
                    f"the key {key.value!r} is on line {lines[name]} and again on line {line}; keep one of them"
                )
            lines[name] = line
        return node

    def construct_scalar(self, node: Any) -> Any:
        """Join the two halves in which JSON writes a character beyond 16 bits, and refuse a half alone."""
        text = super().construct_scalar(node)
        if not isinstance(text, str) or not any("\ud800" <= sign <= "\udfff" for sign in text):
            return text
        try:
            return text.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            raise yaml.YAMLError(
                f"the text {text!r} on line {node.start_mark.line + 1} holds half a character; write all of it"
            ) from None


_MOST_PROBLEMS = 5
"""Most problems of a file in one error."""
_LONGEST_VALUE = 100
"""Most characters of a wrong value in an error."""


def read_suite(path: Path) -> Suite:
    """Return the suite in a YAML file.

    Raises:
        UsageError: The file is missing or not YAML, repeats a key, or breaks a rule. The message names the key, the
            value and the nearest valid key.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506 - a safe loader
    except OSError as error:
        raise UsageError(f"cannot read suite {path}: {error.strerror}; give the path of a suite YAML file") from error
    except (yaml.YAMLError, ValueError) as error:  # a ValueError: text that is not UTF-8, or an impossible date
        raise UsageError(f"suite {path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise UsageError(f"suite {path} holds {type(content).__name__}; it must be a mapping of suite settings")
    try:
        return Suite.model_validate(content, context={"folder": path.parent})
    except ValidationError as error:
        problems = [_explain(problem, content) for problem in error.errors()]
        more = f"; and {len(problems) - _MOST_PROBLEMS} more problems" if len(problems) > _MOST_PROBLEMS else ""
        raise UsageError(f"suite {path} is not valid: {'; '.join(problems[:_MOST_PROBLEMS])}{more}") from error


def _explain(problem: Any, content: dict[Any, Any]) -> str:
    where = ".".join(map(str, _with_scenario_id(problem["loc"], content))) or "suite"
    if problem["type"] == "extra_forbidden":
        hint = unknown_name("key", str(problem["loc"][-1]), _keys_at(problem["loc"][:-1]))
        return f"{where}: {hint}"
    value = "" if isinstance(problem["input"], dict) else f" (got {_shortened(repr(problem['input']))})"
    return f"{where}: {problem['msg'].removeprefix('Value error, ')}{value}"


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST_VALUE else text[:_LONGEST_VALUE] + " ..."


def _with_scenario_id(location: tuple[str | int, ...], content: dict[Any, Any]) -> tuple[str | int, ...]:
    """Return ``location`` with the id of a scenario in place of its position, if the scenario has an id."""
    match location:
        case ("scenarios", int(position), *inner) if isinstance(content["scenarios"], list):
            match content["scenarios"][position]:
                case {"id": str(name)}:
                    return ("scenarios", name, *inner)
    return location


def _keys_at(location: tuple[str | int, ...]) -> list[str]:
    """Return the keys that are valid at a location inside a suite."""
    model: type[BaseModel] = Suite
    for step in location:
        if isinstance(step, int):
            continue
        annotation = model.model_fields[step].annotation if step in model.model_fields else None
        inner = [a for a in (annotation, *getattr(annotation, "__args__", ())) if isinstance(a, type)]
        models = [a for a in inner if issubclass(a, BaseModel)]
        if not models:
            return []
        model = models[0]
    return list(model.model_fields)


class _Suites(NameIndex[Suite]):
    def get(self, name: str) -> Suite:
        whole, _, tier = name.rpartition("_")
        if whole and name not in self.names() and whole in self.names():
            return self.get(whole).tier(tier)
        where, origin = self._source(name)
        suite = _bundled(where, f"suite {name!r} of {origin!r}")
        if suite.id != name:
            raise UsageError(
                f"suite {name!r} of {origin!r} calls itself {suite.id!r}; its id must be the name of its file or, "
                f"outside this package, of its entry point in group {self.group!r}"
            )
        return suite

    def _built_in(self) -> dict[str, str]:
        return bundled_files()


class _Scenarios:
    """The scenarios of all registered suites by id."""

    def names(self) -> list[str]:
        """Return all ids, sorted."""
        return sorted(self._by_id)

    def get(self, name: str) -> Scenario:
        """Return the scenario called ``name``; raises :class:`UsageError` with the nearest id if there is none."""
        if name not in self._by_id:
            raise unknown_name("scenario", name, self._by_id)
        return self._by_id[name]

    def entries(self) -> list[Scenario]:
        """Return all scenarios, sorted by id."""
        return [self._by_id[name] for name in self.names()]

    @cached_property
    def _by_id(self) -> dict[str, Scenario]:
        by_id: dict[str, Scenario] = {}
        holders: dict[str, str] = {}
        for suite in suites.entries():
            for scenario in suite.every_scenario:
                if scenario.id in by_id:
                    raise UsageError(
                        f"scenario {scenario.id!r} is in suite {holders[scenario.id]!r} and in suite {suite.id!r}; "
                        f"rename one, because an id names one scenario only"
                    )
                by_id[scenario.id], holders[scenario.id] = scenario, suite.id
        return by_id


@cache
def _bundled(where: str, what: str) -> Suite:
    try:
        path = suite_file(where)
    except Exception as error:  # an outside package may fail in any way
        raise UsageError(
            f"{what} cannot be read from package {where!r}: {type(error).__name__}: {error}; mend or uninstall it"
        ) from error
    return read_suite(path)


suites = _Suites("suite", GROUP)
scenarios = _Scenarios()


def find_suite(name_or_path: str) -> Suite:
    """Return a bundled suite by id (``paper``, or ``paper_lite`` for its tier), or the suite in a YAML file.

    A tier of a suite in a file follows a colon: ``my_suite.yaml:lite``.

    Raises:
        UsageError: The suite is unknown, or the file is not valid.
    """
    path, _, tier = name_or_path.rpartition(":")
    if not path or Path(name_or_path).is_file():
        path, tier = name_or_path, ""
    if path.lower().endswith((".yaml", ".yml")):
        whole = read_suite(Path(path))
        return whole.tier(tier) if tier else whole
    if tier and path in suites.names():
        return suites.get(path).tier(tier)
    return suites.get(name_or_path)
