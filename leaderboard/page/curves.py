"""Sensitivity sets as small drawings: one panel a metric, in the page's own colours and small enough for dozens.

Written as SVG text rather than drawn with a plotting library: all marks of a line are one path, so that a panel takes
two kilobytes, and a page with thirty of them neither grows nor waits.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from leaderboard.ranking.grid import BASELINE
from leaderboard.scores.stats import Estimate
from leaderboard.views.sensitivity import Axis

METRICS = (("safety", "Safety"), ("utility", "Utility"), ("over_refusal", "Over-refusal"))
"""Metric and title of each panel."""
MARKS = (
    "m-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0",
    "m-3.5-3.5h7v7h-7z",
    "m0-4.6l4.3 7.6h-8.6z",
    "m0 4.6l4.3-7.6h-8.6z",
    "m0-5l4.6 5l-4.6 5l-4.6-5z",
    "m-4-1.4h2.6v-2.6h2.8v2.6h2.6v2.8h-2.6v2.6h-2.8v-2.6h-2.6z",
)
"""Mark of each line, as a path from its centre; more lines than marks begin again."""
_WIDTH, _HEIGHT = 320, 190
_DODGE = 6
"""Distance between the marks of neighbouring lines at a point: many lie at 0 or 100 and would hide each other."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 36, 306, 24, 164


@dataclass(frozen=True)
class Drawing:
    """A sensitivity set, drawn.

    Attributes:
        axis: The set.
        panels: SVG of each of :data:`METRICS` that has a score; none for an ablation, which is a table.
        key: Class and SVG of the mark of each line, in the order of the axis's lines.
    """

    axis: Axis
    panels: tuple[Markup, ...]
    key: tuple[tuple[str, Markup], ...]

    @property
    def ablation(self) -> bool:
        """Whether its points differ by method."""
        return any(line.ablation for line in self.axis.lines)


def drawings(axes: Sequence[Axis]) -> list[Drawing]:
    """Return one drawing an axis. A metric has one scale for all of them, so that panels can be compared."""
    scales = {metric: _scale(metric, axes) for metric, _ in METRICS}
    made = []
    for axis in axes:
        drawn = not any(line.ablation for line in axis.lines)
        panels = [_panel(axis, metric, title, scales[metric]) for metric, title in METRICS if drawn]
        key = [(_class(index), _mark(index)) for index in range(len(axis.lines))]
        made.append(Drawing(axis, tuple(Markup(panel) for panel in panels if panel), tuple(key)))  # noqa: S704 - ours
    return made


def _class(index: int) -> str:
    return f"k{index % len(MARKS)}"


def _mark(index: int) -> Markup:
    path = f'<svg viewBox="-7 -7 14 14" aria-hidden="true"><path d="M0 0{MARKS[index % len(MARKS)]}"/></svg>'
    return Markup(path)  # noqa: S704 - our own numbers


def _clean(axis: Axis, metric: str) -> list[Estimate | None]:
    """Return a metric of the baseline without attack at each point."""
    twins = (point.twins.get(BASELINE) for point in axis.points)
    return [twin.metrics.get(metric) if twin else None for twin in twins]


def _scale(metric: str, axes: Sequence[Axis]) -> tuple[int, int]:
    """Return the ends of a metric's scale in percent: all of it for safety, else tens around the means that occur.

    An interval that reaches further is cut at the panel's edge: one wide one would press all lines into one.
    """
    found = [value for axis in axes for line in axis.lines for value in axis.along(line, metric) if value is not None]
    found += [value for axis in axes for value in _clean(axis, metric) if value is not None]
    if metric == "safety" or not found:
        return 0, 100
    means = [value.mean for value in found]
    low, high = 10 * math.floor(10 * min(means) + 1e-9), 10 * math.ceil(10 * max(means) - 1e-9)
    if metric == "utility":
        return min(low, 80), 100
    return 0, max(20, high)


def _panel(axis: Axis, metric: str, title: str, scale: tuple[int, int]) -> str:
    """Return the SVG of one metric; empty where no line has a score."""
    lines = [axis.along(line, metric) for line in axis.lines]
    if not any(value is not None for line in lines for value in line):
        return ""
    xs = _places(axis)
    bottom, top = scale
    step = next(size for size in (5, 10, 20, 25) if (top - bottom) / size <= 5)

    def y(share: float) -> float:
        clipped = min(max(100 * share, bottom), top)
        return _BOTTOM - (clipped - bottom) / (top - bottom) * (_BOTTOM - _TOP)

    name = escape(f"{title} by {axis.title}")
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" class="plot" aria-label="{name}">',
        f'<text x="{_LEFT}" y="12" class="head">{escape(title)} (%)</text>',
    ]
    for tick in range(bottom, top + 1, step):
        place = y(tick / 100)
        parts.append(f'<path class="grid" d="M{_LEFT} {place:.4g}H{_RIGHT}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{place + 4:.4g}" class="tick" text-anchor="end">{tick}</text>')
    for x, point in zip(xs, axis.points, strict=True):
        label = str(point.value) if axis.numeric else point.label
        short = label if len(label) <= 16 else f"{label[:15]}\N{HORIZONTAL ELLIPSIS}"
        parts.append(f'<text x="{x:.4g}" y="{_BOTTOM + 18}" class="tick" text-anchor="middle">{escape(short)}</text>')
    parts.append(_line(xs, [None if value is None else y(value.mean) for value in _clean(axis, metric)], "clean"))
    for index, values in enumerate(lines):
        aside = _DODGE * (index - (len(lines) - 1) / 2)
        ys = [None if value is None else y(value.mean) for value in values]
        own = [x + aside for x in xs]
        shown = [(x, value) for x, value in zip(own, values, strict=True) if value is not None]
        spans = [f"M{x:.4g} {y(v.low):.4g}V{y(v.high):.4g}" for x, v in shown if not math.isnan(v.low)]
        marks = [f"M{x:.4g} {y(v.mean):.4g}{MARKS[index % len(MARKS)]}" for x, v in shown]
        parts.append(f'<g class="{_class(index)}">')
        parts += [f'<path class="span" d="{"".join(spans)}"/>'] if spans else []
        parts.append(_line(own, ys, "curve"))
        parts.append(f'<path class="dot" d="{"".join(marks)}"/></g>')
    return "".join([*parts, "</svg>"])


def _places(axis: Axis) -> list[float]:
    """Return where the points lie across: by value where that is a number, else evenly."""
    values = [float(point.value) if axis.numeric else float(index) for index, point in enumerate(axis.points)]
    low, high = min(values), max(values)
    left, right = _LEFT + 20, _RIGHT - 20
    if low == high:
        return [(left + right) / 2] * len(values)
    if not axis.numeric:  # labels are words and need room to both sides
        left, right = left + 16, right - 16
    return [left + (value - low) / (high - low) * (right - left) for value in values]


def _line(xs: Sequence[float], ys: Sequence[float | None], name: str) -> str:
    """Return the path between neighbours that are both there; empty if there are none."""
    path, drawing = "", False
    for (x, here), (after, there) in itertools.pairwise(zip(xs, ys, strict=True)):
        if here is None or there is None:
            drawing = False
            continue
        path += "" if drawing else f"M{x:.4g} {here:.4g}"
        path += f"L{after:.4g} {there:.4g}"
        drawing = True
    return f'<path class="{name}" d="{path}"/>' if path else ""
