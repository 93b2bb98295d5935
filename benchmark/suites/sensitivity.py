"""Sensitivity sets: scores along one setting at a time, on few seeds and few defenses.

An axis varies one setting of its base scenario. Each of its points is a scenario of the suite, or a scenario that
:func:`expand` makes, with its own id, seeds, defenses and un-attacked twin. Points are shown apart and never enter the
ranking.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, ValidationError, model_validator

from benchmark.errors import unknown_name
from benchmark.settings import Settings
from benchmark.suites.scenario import AttackSettings, Scenario
from benchmark.suites.settings import Seed, rule
from tasks.hub.settings import DataChoice

_SETTABLE: Final = (
    "start",
    "clients",
    "participants",
    "malicious",
    "declared_malicious",
    "partition",
    "refusal_share",
    "data",
    "attack",
    "reattack_rounds",
    "flags",
    "training",
)

_FELT_BY_TWINS: Final = (
    "start",
    "clients",
    "participants",
    "partition",
    "refusal_share",
    "reattack_rounds",
    "training",
)
"""Settings that decide plain averaging without attack, beside the honest clients' data. The declared bound is not among
them, because averaging does not use it."""

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
Value = Annotated[int | float | str, rule("must be a finite number or a text")]
Defenses = Annotated[tuple[str, ...], rule("must be a list of defense ids")]


class Point(Settings):
    """One value on an axis: a scenario of the suite, or settings to change in the axis's base."""

    value: Value
    """Value of the setting that the axis varies."""
    scenario: str | None = None
    """Id of a scenario of the suite that is this point."""
    id: Name | None = None
    """Id of the scenario to make."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Fields of the base scenario with other values."""
    defenses: Defenses = ()
    """Defenses of this point alone; empty for the axis's."""

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.scenario is None) == (self.id is None) or (self.scenario is not None and self.set):
            raise ValueError(
                f"point {self.value!r} must have either 'scenario', the id of a scenario of the suite, or 'id' with "
                f"'set', for a new scenario; keep one of the two"
            )
        return self

    @property
    def name(self) -> str:
        """Id of its scenario."""
        return self.scenario or self.id or ""


class Axis(Settings):
    """One setting that is varied."""

    id: Name
    """Name on the command line."""
    version: str = "1"
    """Version of the scenarios that are made; changes with any setting of theirs."""
    title: str = Field(min_length=1)
    """Short human name."""
    unit: str = ""
    """Unit of the values; empty where they have none."""
    description: str = Field(min_length=20)
    """One paragraph."""
    base: str
    """Id of the scenario whose setting is varied."""
    seeds: tuple[Seed, ...] = ()
    """Run seeds; empty for the section's."""
    defenses: Defenses = ()
    """Defenses; empty for the section's."""
    twins: Literal["reference", "all"] = "reference"
    """Defenses that run without attack: FedAvg alone, or all defenses of the point."""
    points: tuple[Point, ...] = Field(min_length=2)
    """Values, in the order they are shown."""

    @model_validator(mode="after")
    def _points_differ(self) -> Self:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"axis {self.id!r} repeats a seed of {list(self.seeds)}; name each once")
        values = [point.value for point in self.points]
        for value in values:
            if values.count(value) > 1:
                raise ValueError(f"axis {self.id!r} has the value {value!r} twice; keep one")
        return self


class Sensitivity(Settings):
    """The sensitivity sets of a suite."""

    seeds: tuple[Seed, ...] = Field(min_length=1)
    """Run seeds of every axis that names none."""
    defenses: Annotated[tuple[str, ...], rule("must be a list of at least one defense id")] = Field(min_length=1)
    """Defenses of every axis that names none. Scores are compared with the first, which runs in all twins."""
    axes: tuple[Axis, ...] = Field(min_length=1)
    """The settings that are varied."""

    @model_validator(mode="after")
    def _seeds_differ(self) -> Self:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"sensitivity repeats a seed of {list(self.seeds)}; name each once")
        return self

    def axis(self, name: str) -> Axis:
        """Return the axis called ``name``; raises :class:`UsageError` with the nearest name if there is none."""
        by_id = {axis.id: axis for axis in self.axes}
        if name not in by_id:
            raise unknown_name("axis", name, by_id)
        return by_id[name]

    def seeds_of(self, axis: Axis) -> tuple[int, ...]:
        """Return the run seeds of an axis."""
        return axis.seeds or self.seeds

    def defenses_of(self, axis: Axis, point: Point) -> tuple[str, ...]:
        """Return the defenses that run at a point under attack."""
        return point.defenses or axis.defenses or self.defenses

    def twin_defenses_of(self, axis: Axis, point: Point) -> tuple[str, ...]:
        """Return the defenses that run in a point's un-attacked twin."""
        return self.defenses_of(axis, point) if axis.twins == "all" else self.defenses[:1]


class Place(Settings):
    """Place of a scenario on an axis; part of its catalog row."""

    axis: str
    """Id of the axis."""
    title: str
    """Its title."""
    unit: str
    """Its unit."""
    value: Value
    """Value of the setting."""
    position: int
    """Position of the value among the axis's points, from 0."""
    base: str
    """Id of the scenario whose setting is varied."""
    twin: bool
    """Whether this is the point's un-attacked twin."""


class SensitivityScenario(Scenario):
    """A scenario that a sensitivity point makes."""

    seeds: tuple[Seed, ...]
    """Its run seeds."""
    defenses: Defenses
    """Its defenses."""
    sensitivity: Place
    """Its place on an axis."""


def expand(section: Sensitivity, scenarios: Sequence[Scenario]) -> tuple[SensitivityScenario, ...]:
    """Return the scenarios that the points make, each followed by its twin if it needs a twin of its own.

    Twins that train the same are shared. For example, points that differ in the declared bound or the attack share one,
    because neither affects plain averaging without attack. A twin with seeds or defenses of its own is shared if it has
    those of the point.

    Raises:
        ValueError: An axis or scenario id repeats or is unknown, or a point is not valid; the message gives the reason.
    """
    by_id = {scenario.id: scenario for scenario in scenarios}
    names = [axis.id for axis in section.axes]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"axis id {name!r} repeats; rename one")
    twins = [scenario for scenario in scenarios if not scenario.attacked and not scenario.variants]
    added: list[SensitivityScenario] = []
    for axis in section.axes:
        base = _known(by_id, axis.base, f"axis {axis.id!r}: base scenario")
        if not base.attacked:
            raise ValueError(f"axis {axis.id!r}: base scenario {axis.base!r} is un-attacked; name an attacked one")
        for position, point in enumerate(axis.points):
            if point.scenario is not None:
                _known({s.id: s for s in scenarios}, point.scenario, f"axis {axis.id!r}: scenario")
                continue
            fresh = _made(section, axis, point, position, base)
            needed = section.twin_defenses_of(axis, point)
            shared = (twin for twin in twins if _trains_as(twin, fresh) and _covers(twin, fresh.seeds, needed))
            found = next(shared, None) if axis.twins != "all" else None
            fresh = fresh.model_copy(update={"twin": found.id if found else f"clean_{fresh.id}"})
            new = [fresh]
            if found is None:
                new.append(_twin_of(fresh, needed))
                if axis.twins != "all":
                    twins.append(new[-1])
            for scenario in new:
                if scenario.id in by_id:
                    raise ValueError(f"axis {axis.id!r}: scenario id {scenario.id!r} is taken; rename the point")
                by_id[scenario.id] = scenario
            added += new
    return tuple(added)


def _known(by_id: dict[str, Scenario], name: str, what: str) -> Scenario:
    if name not in by_id:
        raise ValueError(str(unknown_name(what, name, by_id)))
    return by_id[name]


def _made(section: Sensitivity, axis: Axis, point: Point, position: int, base: Scenario) -> SensitivityScenario:
    """Return the base scenario with the point's settings."""
    for field in point.set:
        if field not in _SETTABLE:
            raise ValueError(str(unknown_name(f"setting of point {point.name!r}", field, _SETTABLE)))
    place = Place(
        axis=axis.id,
        title=axis.title,
        unit=axis.unit,
        value=point.value,
        position=position,
        base=base.id,
        twin=False,
    )
    fields = {
        "id": point.id,
        "version": axis.version,
        "title": f"{axis.title}: {point.value}{f' {axis.unit}' if axis.unit else ''}",
        "description": axis.description,
        "variants": (),
        "seeds": section.seeds_of(axis),
        "defenses": section.defenses_of(axis, point),
        "sensitivity": place,
    }
    try:
        return SensitivityScenario.model_validate(base.model_dump() | point.set | fields)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, (point.name, *problem["loc"])))
        raise ValueError(f"point {where}: {problem['msg'].removeprefix('Value error, ')}") from error


def _trains_as(twin: Scenario, point: Scenario) -> bool:
    same = all(getattr(twin, name) == getattr(point, name) for name in _FELT_BY_TWINS)
    return same and _honest_data(twin) == _honest_data(point)


def _covers(twin: Scenario, seeds: Sequence[int], defenses: Sequence[str]) -> bool:
    """Return whether a twin runs on these seeds with these defenses; empty settings of a twin are the suite's."""
    return (not twin.seeds or set(seeds) <= set(twin.seeds)) and (
        not twin.defenses or set(defenses) <= set(twin.defenses)
    )


def _honest_data(scenario: Scenario) -> DataChoice | None:
    """Return the sources of a scenario's rows, without the source that only attackers use."""
    return scenario.data.model_copy(update={"unaligned": ""}) if scenario.data else None


def _twin_of(point: SensitivityScenario, defenses: tuple[str, ...]) -> SensitivityScenario:
    return point.model_copy(
        update={
            "id": point.twin,
            "title": f"No attack, {point.title[0].lower()}{point.title[1:]}",
            "description": f"The un-attacked twin of {point.id}. {point.description}",
            "malicious": 0,
            "attack": AttackSettings(id="none"),
            "defenses": defenses,
            "sensitivity": point.sensitivity.model_copy(update={"twin": True}),
        }
    )
