"""Kinds of methods: one object for attacks and one for defenses, with everything in which the two differ.

A third kind, for example a judge, is one more object in :data:`KINDS`. ``tests/benchmark/methods/test_kinds.py`` names
the files and tables of other rooms that hold something for each kind: contract, stand-in in the sandbox, templates.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from attacks.base import Attack, attacks
from benchmark.errors import unknown_name
from benchmark.methods.pipeline import members
from benchmark.records.schemas import KIND_ATTACK, KIND_DEFENSE
from benchmark.registry import Registry
from benchmark.suites.attacked import AttackScenario, attacked_id, attacked_suite
from benchmark.suites.scenario import Scenario
from benchmark.suites.settings import BASELINE as BASELINE
from benchmark.suites.suite import Suite
from defenses.base import Defense, defenses

SAFETY, UTILITY, OVER_REFUSAL = "safety", "utility", "over_refusal"

Params = dict[str, float | int | str | bool]
Row = Mapping[str, Any]


@dataclass(frozen=True)
class SmokePlan:
    """The cells of a smoke run: every pipeline in every scenario."""

    suite: Suite
    scenarios: tuple[str, ...]
    pipelines: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Kind(ABC):
    """A kind of method. There is one object for each, which keeps its identity in other processes.

    Attributes:
        name: The kind in rows, reports and bundles, for example ``attack``.
        article: The name with its article, for messages: ``an attack``.
        registry: Registry of the methods.
        base: Base class of the methods.
        directions: Scores by which methods are compared: 1 for a score that grows as the method gets better, else -1.
        shape: Names of the numbers before the dimension in a measurement of time and memory.
        gated: Whether a low utility or a high over-refusal keeps a method from a rank.
    """

    name: str
    article: str
    registry: Registry[Any, Any]
    base: type
    directions: Mapping[str, int]
    shape: tuple[str, ...]
    gated: bool

    def __str__(self) -> str:
        return self.name

    def __reduce__(self) -> tuple[Any, ...]:
        return kind_named, (self.name,)

    @property
    def package(self) -> str:
        """Package as whose module a single file acts, for example ``attacks``."""
        return self.registry.package

    @abstractmethod
    def owns(self, row: Row, method: str) -> bool:
        """Whether a row of table ``cells`` is a row of the method with the id ``method``."""

    @abstractmethod
    def command(self, method: str, suite: Suite, scenarios: Iterable[str]) -> str:
        """Return the command that makes the rows of a method in a suite; ``scenarios`` are those of its rows so far."""

    @abstractmethod
    def suite_with(self, suite: Suite, method: str, scenarios: Iterable[str], params: Params) -> Suite:
        """Return the suite with the scenarios of a method's rows; ``params`` are those of an attack."""

    @abstractmethod
    def described(self, method: str, scenarios: Iterable[str]) -> set[tuple[str, str]]:
        """Return kind and id of each description that a method brings; ``scenarios`` are those of its cells."""

    @abstractmethod
    def params(self, method: str, catalog: Iterable[Row]) -> list[Params]:
        """Return the different parameters under which rows of table ``catalog`` hold a method."""

    @abstractmethod
    def complete(self, suite: Suite, claimed: Collection[str]) -> list[str]:
        """Return the scenarios that a complete claim has; ``claimed`` are those of the claim."""

    @abstractmethod
    def smoke_plan(self, suite: Suite, method: str, scenario: str) -> SmokePlan:
        """Return the cells that show a method beside the baseline in a scenario."""

    @abstractmethod
    def beside(self, baseline: Any) -> str:
        """Return the words for the baseline's cell, given its score with ``attack`` and ``defense``."""

    @abstractmethod
    def reference(self, pipeline: str) -> str:
        """Return the pipeline of the honest counterpart of a cell with ``pipeline``."""

    @abstractmethod
    def reference_name(self, scenarios: Iterable[str]) -> str:
        """Return the name of the honest counterpart of cells; ``scenarios`` are those of the counterpart."""


class _DefenseKind(Kind):
    def owns(self, row: Row, method: str) -> bool:
        return method in members(row["defense"])

    def command(self, method: str, suite: Suite, scenarios: Iterable[str]) -> str:
        return f"fedsafety run --defense {method} --suite {suite.id}"

    def suite_with(self, suite: Suite, method: str, scenarios: Iterable[str], params: Params) -> Suite:
        return suite

    def described(self, method: str, scenarios: Iterable[str]) -> set[tuple[str, str]]:
        return {(self.name, method)}

    def params(self, method: str, catalog: Iterable[Row]) -> list[Params]:
        return [{}]

    def complete(self, suite: Suite, claimed: Collection[str]) -> list[str]:
        return [scenario.id for scenario in suite.scenarios]

    def smoke_plan(self, suite: Suite, method: str, scenario: str) -> SmokePlan:
        return SmokePlan(suite, (scenario,), tuple(dict.fromkeys([BASELINE, method])))

    def beside(self, baseline: Any) -> str:
        return f"with {baseline.defense}"

    def reference(self, pipeline: str) -> str:
        return BASELINE

    def reference_name(self, scenarios: Iterable[str]) -> str:
        return BASELINE


class _AttackKind(Kind):
    """Attacks. A submitted attack replaces the attack of scenarios; each replaced one is a scenario of its own."""

    def owns(self, row: Row, method: str) -> bool:
        return bool(row["attack"] == method)

    def command(self, method: str, suite: Suite, scenarios: Iterable[str]) -> str:
        bases = sorted(_bases(method, scenarios)) or ["SCENARIO"]
        return f"fedsafety run --attack {method} {' '.join(f'--base {base}' for base in bases)} --suite {suite.id}"

    def suite_with(self, suite: Suite, method: str, scenarios: Iterable[str], params: Params) -> Suite:
        return attacked_suite(suite, method, _bases(method, scenarios), params)

    def described(self, method: str, scenarios: Iterable[str]) -> set[tuple[str, str]]:
        return {(self.name, method), *(("scenario", scenario) for scenario in scenarios)}

    def params(self, method: str, catalog: Iterable[Row]) -> list[Params]:
        settings = [json.loads(row["settings"])["attack"] for row in catalog if row["kind"] == "scenario"]
        texts = {json.dumps(attack["params"], sort_keys=True) for attack in settings if attack["id"] == method}
        return [json.loads(text) for text in sorted({"{}", *texts})]

    def complete(self, suite: Suite, claimed: Collection[str]) -> list[str]:
        return sorted(set(claimed))

    def smoke_plan(self, suite: Suite, method: str, scenario: str) -> SmokePlan:
        replaced = attacked_suite(suite, method, [scenario])
        return SmokePlan(replaced, (scenario, attacked_id(scenario, method)), (BASELINE,))

    def beside(self, baseline: Any) -> str:
        return f"under {baseline.attack}"

    def reference(self, pipeline: str) -> str:
        return pipeline

    def reference_name(self, scenarios: Iterable[str]) -> str:
        return f"the attack of {', '.join(sorted(set(scenarios)))}"


def kind_named(name: str) -> Kind:
    """Return the kind called ``name``.

    Raises:
        UsageError: There is no such kind (suggests the nearest).
    """
    if name not in KINDS:
        raise unknown_name("kind of method", name, KINDS)
    return KINDS[name]


def base_scenario(scenario: Scenario) -> str:
    """Return the id of the scenario whose attack a submitted one replaces, else the scenario's own id."""
    return scenario.base if isinstance(scenario, AttackScenario) else scenario.id


def _bases(method: str, scenarios: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(scenario.removesuffix(f"_{method}") for scenario in scenarios))


DEFENSE: Final[Kind] = _DefenseKind(
    name=KIND_DEFENSE,
    article="a defense",
    registry=defenses,
    base=Defense,
    directions=MappingProxyType({SAFETY: 1, UTILITY: 1, OVER_REFUSAL: -1}),
    shape=("n", "f"),
    gated=True,
)
ATTACK: Final[Kind] = _AttackKind(
    name=KIND_ATTACK,
    article="an attack",
    registry=attacks,
    base=Attack,
    directions=MappingProxyType({SAFETY: -1}),
    shape=("malicious",),
    gated=False,
)
KINDS: Final[Mapping[str, Kind]] = MappingProxyType({kind.name: kind for kind in (DEFENSE, ATTACK)})
"""All kinds by name."""
