"""Selection of scenarios, sensitivity axes, pipelines and seeds in a suite.

Some scenarios have seeds and defenses of their own; the others have the suite's. Chosen seeds and defenses select among
a scenario's own where no scenario is chosen, so that ``--seed 14`` leaves out a scenario without seed 14. They replace
its own where the scenario is chosen by name: ``--scenario rounds --seed 14`` runs that seed, and ``--scenario rounds
--defense krum`` runs ``krum`` under attack and in the twin.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmark.errors import UsageError
from benchmark.suites.sensitivity import Axis, SensitivityScenario
from benchmark.suites.suite import Scenario, Suite
from defenses.base import defenses


@dataclass(frozen=True)
class Part:
    """Part of a plan: pipelines and seeds to run in a scenario."""

    scenario: Scenario
    pipelines: tuple[str, ...]
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Selection:
    """Chosen pipelines and seeds of a suite; empty for those of the scenario or else of the suite."""

    suite: Suite
    pipelines: tuple[str, ...]
    seeds: tuple[int, ...]

    def parts(self, scenarios: Sequence[str], axes: Sequence[str]) -> list[Part]:
        """Return the parts of the plan, in the order of the suite."""
        if not scenarios and not axes:
            return [*map(self._among, self.suite.every_scenario)]
        chosen = [self.suite.scenario(name) for name in scenarios]
        main = [scenario for scenario in chosen if not isinstance(scenario, SensitivityScenario)]
        names = {name for scenario in main for name in (scenario.id, scenario.twin)}
        points = [scenario for scenario in chosen if isinstance(scenario, SensitivityScenario)]
        return [
            *(self._main(scenario) for scenario in self.suite.scenarios if scenario.id in names),
            *(part for point in points for part in self._with_twin(point, point.defenses, point.seeds, ())),
            *(part for axis in self._axes(axes) for part in self._along(axis)),
        ]

    def _own(self, scenario: Scenario) -> Part:
        """Return the part of a scenario where nothing is chosen."""
        variants = [_known_variant(name) for name in scenario.variants]
        names = scenario.defenses or suite_pipelines(self.suite)
        return Part(scenario, (*names, *variants), self.suite.seeds_of(scenario))

    def _main(self, scenario: Scenario) -> Part:
        """Return the part of a scenario that was chosen by name: chosen pipelines and seeds replace its own."""
        own = self._own(scenario)
        return Part(scenario, self.pipelines or own.pipelines, self.seeds or own.seeds)

    def _among(self, scenario: Scenario) -> Part:
        """Return the part of a scenario that was not chosen by name.

        Pipelines and seeds of its own are left out unless they were chosen. Those of the suite are replaced.
        """
        own = self._own(scenario)
        names, seeds = self.pipelines or own.pipelines, self.seeds or own.seeds
        if scenario.defenses:
            names = tuple(name for name in own.pipelines if name in names)
        if scenario.seeds:
            seeds = tuple(seed for seed in own.seeds if seed in seeds)
        return Part(scenario, names, seeds)

    def _axes(self, names: Sequence[str]) -> list[Axis]:
        section = self.suite.sensitivity
        if names and section is None:
            raise UsageError(f"suite {self.suite.id!r} has no sensitivity axes; leave --axis out")
        if section is None:
            return []
        return list(section.axes) if "all" in names else [section.axis(name) for name in dict.fromkeys(names)]

    def _along(self, axis: Axis) -> list[Part]:
        section = self.suite.sensitivity
        assert section is not None
        parts: list[Part] = []
        for point in axis.points:
            names, twins = section.defenses_of(axis, point), section.twin_defenses_of(axis, point)
            parts += self._with_twin(self.suite.scenario(point.name), names, section.seeds_of(axis), twins)
        return parts

    def _with_twin(
        self, scenario: Scenario, names: tuple[str, ...], seeds: tuple[int, ...], twins: tuple[str, ...]
    ) -> list[Part]:
        twin = self.suite.scenario(scenario.twin)
        if isinstance(twin, SensitivityScenario):
            twins = twin.defenses
        assert self.suite.sensitivity is not None
        twins = twins or self.suite.sensitivity.defenses[:1]
        parts = [(scenario, names), (twin, twins)][: 2 if scenario.attacked else 1]
        return [Part(place, self.pipelines or pipelines, self.seeds or seeds) for place, pipelines in parts]


def suite_pipelines(suite: Suite) -> list[str]:
    """Return the names of the pipelines that a suite runs in every scenario of its ranking, in order of listing.

    ``all`` means every registered defense that is neither a variant nor unscored, reference rows last.
    """
    if suite.defenses != "all":
        return [*suite.defenses, *suite.pipelines]
    entries = [e for e in defenses.entries() if not e.info.variant_of and e.info.id not in suite.unscored]
    ranked = [entry.info.id for entry in entries if entry.info.ranked]
    reference = [entry.info.id for entry in entries if not entry.info.ranked]
    return [*ranked, *suite.pipelines, *reference]


def _known_variant(name: str) -> str:
    if not defenses.get(name).info.variant_of:
        raise UsageError(f"scenario lists {name!r} as a variant, but it is a defense of its own; remove it there")
    return name
