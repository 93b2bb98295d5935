"""Sensitivity of scores to one setting at a time, on the axes that a suite defines.

Each point of an axis is a scenario of its own; one of them usually is a ranked scenario, with more seeds and more
defenses than the other points. All points of an axis are restricted to the seeds that every point with rows has, and
those few seeds are the unit of its intervals (see :mod:`leaderboard.scores.stats`). Points are never ranked, and curves
of different axes are not compared.

A cell that is not applicable, failed, incomplete or not run is missing, with the reason. A cell in which the defense
degenerates into another defense is missing too, because it has the other's score. Missing cells are never interpolated.

Where the points of an axis differ by method and not by scenario (an ablation), the methods that replace each other form
one line.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmark.errors import FedSafetyError
from benchmark.records.schemas import STATUS_DONE
from leaderboard.scores.stats import Estimate
from leaderboard.scores.summaries import NOT_RUN, Scenario, Summary

Value = int | float | str


@dataclass(frozen=True)
class Cell:
    """A defense at a point.

    Attributes:
        defense: Defense id.
        summary: Its summary on the axis's seeds, without gates, because gates hold for all seeds together.
    """

    defense: str
    summary: Summary

    @property
    def reason(self) -> str:
        """Why it is missing; empty if it is shown."""
        if self.summary.state != STATUS_DONE:
            return "; ".join(self.summary.reasons) or self.summary.state.replace("_", " ")
        return self.summary.degenerate

    @property
    def metrics(self) -> Mapping[str, Estimate]:
        """Estimates by metric name (``safety``, ``utility``, ``over_refusal``, ``drop``, …); empty if it is missing."""
        return {} if self.reason else self.summary.metrics


@dataclass(frozen=True)
class Point:
    """One value on an axis.

    Attributes:
        value: Where it lies, a number or a text.
        label: The value with its unit.
        scenario: Id of its scenario.
        twin: Id of the un-attacked twin; empty if it has no rows.
        base: Whether it is the scenario whose setting the axis varies.
        cells: By defense, for every defense that the suite asks for at this point.
        twins: Cells of the un-attacked twin, for the baseline and other defenses that ran there.
    """

    value: Value
    label: str
    scenario: str
    twin: str
    base: bool
    cells: Mapping[str, Cell]
    twins: Mapping[str, Cell]


@dataclass(frozen=True)
class Line:
    """One curve.

    Attributes:
        id: The defense, or the first of the defenses that replace each other.
        defenses: Defense at each point of the axis; empty where the suite asks for none.
    """

    id: str
    defenses: tuple[str, ...]

    @property
    def ablation(self) -> bool:
        """Whether methods replace each other along the line."""
        return len({defense for defense in self.defenses if defense}) > 1


@dataclass(frozen=True)
class Axis:
    """One setting that is varied.

    Attributes:
        id: Axis id.
        title: Short human name.
        unit: Unit of the values; empty where they have none.
        description: One paragraph.
        base: Id of the scenario whose setting is varied.
        seeds: The seeds that all points with rows share.
        points: In the suite's order.
        lines: In the suite's order.
    """

    id: str
    title: str
    unit: str
    description: str
    base: str
    seeds: tuple[int, ...]
    points: tuple[Point, ...]
    lines: tuple[Line, ...]

    @property
    def numeric(self) -> bool:
        """Whether values are numbers, so that distances between points mean something."""
        return all(isinstance(point.value, int | float) for point in self.points)

    @property
    def started(self) -> bool:
        """Whether at least two points show a score, so that there is something to compare."""
        return sum(any(cell.metrics for cell in point.cells.values()) for point in self.points) > 1

    def along(self, line: Line, metric: str = "safety") -> tuple[Estimate | None, ...]:
        """Return a metric of ``line`` at each point; ``None`` where it is missing."""
        return tuple(
            point.cells[defense].metrics.get(metric) if defense else None
            for defense, point in zip(line.defenses, self.points, strict=True)
        )


def axes(
    settings: Mapping[str, Any],
    scenarios: Mapping[str, Scenario],
    summary: Callable[[Scenario, str, Collection[int] | None], Summary],
    baseline: str,
) -> tuple[Axis, ...]:
    """Return the sensitivity sets of a suite; none if it defines none.

    Args:
        settings: The suite's settings, from its row of table ``catalog``.
        scenarios: All scenarios with rows by id, points and twins included.
        summary: Returns the summary of a defense in a scenario, over some seeds or all of its seeds.
        baseline: The defense that runs in every twin.

    Raises:
        FedSafetyError: The settings do not have the form that this release writes.
    """
    return tuple(_axis(declared, scenarios, summary, baseline) for declared in _declared(settings))


@dataclass(frozen=True)
class _DeclaredPoint:
    value: Value
    scenario: str
    defenses: tuple[str, ...]


@dataclass(frozen=True)
class _DeclaredAxis:
    id: str
    title: str
    unit: str
    description: str
    base: str
    points: tuple[_DeclaredPoint, ...]


def _declared(settings: Mapping[str, Any]) -> list[_DeclaredAxis]:
    section = settings.get("sensitivity")
    if not section:
        return []
    try:
        return [
            _DeclaredAxis(
                id=_text(axis["id"]),
                title=_text(axis["title"]),
                unit=_text(axis["unit"]),
                description=_text(axis["description"]),
                base=_text(axis["base"]),
                points=tuple(_declared_point(section, axis, point) for point in axis["points"]),
            )
            for axis in section["axes"]
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise FedSafetyError(
            f"the suite's sensitivity settings in table 'catalog' are not those of this release ({error!r}); write the "
            f"catalog again with `fedsafety run`"
        ) from error


def _declared_point(section: Mapping[str, Any], axis: Mapping[str, Any], point: Mapping[str, Any]) -> _DeclaredPoint:
    """Return a point with the defenses of the point, else of its axis, else of the section."""
    defenses = point.get("defenses") or axis.get("defenses") or section["defenses"]
    return _DeclaredPoint(
        value=_value(point["value"]),
        scenario=_text(point.get("scenario") or point["id"]),
        defenses=tuple(dict.fromkeys(map(_text, defenses))),
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a text")
    return value


def _value(value: Any) -> Value:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise TypeError(f"{value!r} is neither a number nor a text")
    return value


def _axis(
    axis: _DeclaredAxis,
    scenarios: Mapping[str, Scenario],
    summary: Callable[[Scenario, str, Collection[int] | None], Summary],
    baseline: str,
) -> Axis:
    def of(scenario: str, defense: str, seeds: Collection[int] | None = None) -> Summary:
        if scenario not in scenarios:
            return Summary(NOT_RUN, ("not run",))
        return summary(scenarios[scenario], defense, seeds)

    summaries = [{defense: of(point.scenario, defense) for defense in point.defenses} for point in axis.points]
    # A point without any row does not restrict the seeds: it is missing as a whole.
    run = [
        held for by_defense in summaries if (held := {seed for result in by_defense.values() for seed in result.cells})
    ]
    seeds = tuple(sorted(set.intersection(*run))) if run else ()
    points = []
    for declared, by_defense in zip(axis.points, summaries, strict=True):
        twin = scenarios[declared.scenario].twin if declared.scenario in scenarios else ""
        # Cells missing on other seeds of a ranked scenario do not matter to this axis.
        attacked = {defense: of(declared.scenario, defense, seeds or None) for defense in by_defense}
        clean = {defense: of(twin, defense, seeds or None) for defense in dict.fromkeys([baseline, *declared.defenses])}
        points.append(
            Point(
                value=declared.value,
                label=f"{declared.value} {axis.unit}".rstrip(),
                scenario=declared.scenario,
                twin=twin,
                base=declared.scenario == axis.base,
                cells={defense: Cell(defense, _on(result, seeds)) for defense, result in attacked.items()},
                twins={
                    defense: Cell(defense, _on(result, seeds))
                    for defense, result in clean.items()
                    if defense == baseline or result.state != NOT_RUN
                },
            )
        )
    lines = _lines([point.defenses for point in axis.points])
    return Axis(axis.id, axis.title, axis.unit, axis.description, axis.base, seeds, tuple(points), lines)


def _on(summary: Summary, seeds: Sequence[int]) -> Summary:
    """Return ``summary`` restricted to ``seeds``."""
    if summary.state != STATUS_DONE:
        return summary
    lacking = [seed for seed in seeds if seed not in summary.cells]
    if lacking or not seeds:
        reason = f"not run (seed {', '.join(map(str, lacking))})" if lacking else "the points share no seed"
        return Summary(NOT_RUN, (reason,))
    values = {
        metric: {seed: by_seed[seed] for seed in seeds if seed in by_seed} for metric, by_seed in summary.values.items()
    }
    return replace(summary, cells={seed: summary.cells[seed] for seed in seeds}, values=values, gate=None)


def _lines(points: Sequence[Sequence[str]]) -> tuple[Line, ...]:
    """Return the lines through points with these defenses.

    A defense of several points is a line. If all points have equally many other defenses, the k-th of each point form
    one line. Otherwise each of these defenses is a line.
    """
    every = list(dict.fromkeys(defense for defenses in points for defense in defenses))
    lasting = [defense for defense in every if sum(defense in defenses for defenses in points) > 1]
    single = [[defense for defense in defenses if defense not in lasting] for defenses in points]
    lines = [
        Line(defense, tuple(defense if defense in defenses else "" for defenses in points))
        for defense in every
        if defense in lasting or len({len(rest) for rest in single}) > 1
    ]
    if len({len(rest) for rest in single}) == 1:
        lines += [Line(chosen[0], tuple(chosen)) for chosen in zip(*single, strict=True)]
    return tuple(sorted(lines, key=lambda line: every.index(line.id)))
