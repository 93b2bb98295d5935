"""Figures as SVG text, drawn with matplotlib, deterministic byte for byte, and coloured by the page's own palette.

Text stays text, and ink and series colours become CSS variables, so that one figure serves light, dark and print.
"""

from __future__ import annotations

import io
import itertools
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from markupsafe import escape

from leaderboard.ranking import BASELINE, RANKED, REFERENCE, Board, Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from leaderboard.sensitivity import Axis, Point

_PALETTE = {
    "#010101": "var(--ink)",
    "#020202": "var(--muted)",
    "#030303": "var(--line)",
    "#040404": "var(--good)",
    "#050505": "var(--bad)",
    "#060606": "var(--paper)",
    "#070707": "var(--c3)",
    "#080808": "var(--c4)",
    "#090909": "var(--c5)",
}
INK, MUTED, LINE, GOOD, BAD, PAPER, *_MORE = _PALETTE
_CURVES = tuple(zip((INK, GOOD, BAD, *_MORE), "Dos^v*", strict=True))
"""Colour and mark of each line of a sensitivity curve; the first is the baseline's."""
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "fedsafety",
    "text.parse_math": False,
    "font.size": 9.5,
    "axes.edgecolor": LINE,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def attack_effect(board: Board) -> str:
    """Return an SVG: safety and utility of FedAvg in every attacked scenario, without and with the attack.

    Returns:
        SVG text for inlining; empty where FedAvg has no complete scenario.
    """
    baseline = next((entry for entry in board.entries if entry.id == BASELINE), None)
    if baseline is None:
        return ""
    pairs = [
        (scenario, baseline.scenarios[scenario.twin].metrics, baseline.scenarios[scenario.id].metrics)
        for scenario in board.scenarios
        if scenario.attacked and scenario.twin in baseline.scenarios
    ]
    pairs = [(scenario, clean, attacked) for scenario, clean, attacked in pairs if clean and attacked][::-1]
    if not pairs:
        return ""

    def draw(figure: Figure) -> None:
        axes = figure.subplots(1, 2, sharey=True)
        for axis, metric, title in zip(axes, ("safety", "utility"), ("Safety", "Utility"), strict=True):
            for y, (_, clean, attacked) in enumerate(pairs):
                if metric in clean and metric in attacked:
                    before, after = clean[metric], attacked[metric]
                    axis.plot([100 * before.mean, 100 * after.mean], [y, y], color=LINE, linewidth=3, zorder=1)
                    _point(axis, before, y, GOOD, "o", "no attack")
                    _point(axis, after, y, BAD, "D", "attack")
            axis.set_title(f"{title} of FedAvg (%)", loc="left", fontsize=10.5, fontweight="bold")
            _percent_axis(axis)
        axes[0].set_yticks(range(len(pairs)), [_short(scenario.info["title"]) for scenario, _, _ in pairs])
        axes[0].set_ylim(-0.6, len(pairs) - 0.4)
        handles = {label: handle for handle, label in zip(*axes[0].get_legend_handles_labels(), strict=True)}
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=2, frameon=False)

    return _svg(draw, 8.6, 1.2 + 0.36 * len(pairs), "effect", "Safety and utility of FedAvg without and with attack")


def trade_off(board: Board) -> str:
    """Return an SVG: mean safety against mean utility of every defense over the compared scenarios, or "" if none."""
    scored = [standing for standing in board.overall if {"safety", "utility"} <= standing.metrics.keys()]
    utilities = [100 * standing.metrics["utility"].mean for standing in scored if standing.group != REFERENCE]
    if not utilities:
        return ""
    # Reference rows of no utility would squeeze everything else into a line.
    left = max(0, 5 * math.floor((min(utilities) - 2) / 5))
    right = 100 + 0.03 * (100 - left)
    points = [standing for standing in scored if 100 * standing.metrics["utility"].mean >= left]
    colours = {RANKED: GOOD, REFERENCE: MUTED}

    def draw(figure: Figure) -> None:
        axis = figure.subplots()
        # Crowded points on the right are named in the margin, the few on the left where they are.
        middle = left + 0.55 * (right - left)
        for near in (True, False):
            group = [s for s in points if (100 * s.metrics["utility"].mean < middle) == near]
            places = _spread([100 * standing.metrics["safety"].mean for standing in group], gap=5.4)
            for standing, place in zip(group, places, strict=True):
                safety, utility = (standing.metrics[name] for name in ("safety", "utility"))
                colour = colours.get(standing.group, BAD)
                marker = {RANKED: "o", REFERENCE: "s"}.get(standing.group, "X")
                x, y = 100 * utility.mean, 100 * safety.mean
                label = x + 0.03 * (right - left) if near else right
                if not math.isnan(utility.low):
                    axis.plot([100 * utility.low, 100 * utility.high], [y, y], color=colour, linewidth=1, alpha=0.5)
                if not math.isnan(safety.low):
                    axis.plot([x, x], [100 * safety.low, 100 * safety.high], color=colour, linewidth=1, alpha=0.5)
                axis.plot([x, label], [y, place], color=LINE, linewidth=0.7, zorder=0, clip_on=False)
                axis.plot(x, y, marker, color=colour, markeredgecolor=PAPER, markersize=7)
                label += 0.01 * (right - left)
                axis.text(label, place, _short(standing.entry.info["title"]), va="center", fontsize=9, color=INK)
        axis.set_xlabel("Utility (%), mean over the compared scenarios")
        axis.set_ylabel("Safety under attack (%)")
        axis.set_ylim(-3, 103)
        _percent_axis(axis)
        axis.set_xlim(left, right)
        axis.set_xticks(range(left, 101, 5 if left >= 50 else 25))

    return _svg(draw, 8.6, max(3.6, 0.27 * len(points) + 1.0), "tradeoff", "Safety against utility", right=0.68)


def curve(axis: Axis, number: int) -> str:
    """Return an SVG: safety of each line of a sensitivity set at its points; empty where no point has a score.

    A line breaks where a cell is missing. The un-attacked baseline is drawn in grey where it was run.

    Args:
        axis: The sensitivity set.
        number: Distinguishes its figure from those of the page's other axes.
    """
    lines = [
        (line.id, [(x, e) for x, point in enumerate(axis.points) if (e := _at(point, line.defenses[x])) is not None])
        for line in axis.lines
    ]
    lines = [line for line in lines if line[1]]
    if not lines:
        return ""
    clean = [
        (x, cell.metrics["safety"])
        for x, point in enumerate(axis.points)
        for name, cell in point.twins.items()
        if name == BASELINE and "safety" in cell.metrics
    ]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        _polyline(axes, clean, MUTED, "", ":")
        ends = _spread([100 * points[-1][1].mean for _, points in lines], gap=8.5)
        for (name, points), end, (colour, mark) in zip(lines, ends, itertools.cycle(_CURVES), strict=False):
            _polyline(axes, points, colour, mark, "-")
            last, edge = points[-1], len(axis.points) - 0.6
            axes.plot([last[0], edge], [100 * last[1].mean, end], color=LINE, linewidth=0.7, zorder=0, clip_on=False)
            axes.text(edge + 0.05, end, _short(name, 24), color=colour, va="center", fontsize=9)
        axes.set_xticks(range(len(axis.points)), [_short(point.label, 16) for point in axis.points])
        axes.set_xlim(-0.4, len(axis.points) - 0.6)
        axes.set_ylim(-4, 104)
        axes.set_yticks(range(0, 101, 25))
        axes.set_ylabel("Safety (%)")
        axes.grid(axis="y", color=LINE, linewidth=0.6)
        axes.tick_params(length=0)

    return _svg(draw, 5.6, 2.9, f"curve{number}", title=f"Safety by {axis.title}", right=0.7, left=0.12, bottom=0.34)


def _at(point: Point, defense: str) -> Estimate | None:
    cell = point.cells.get(defense)
    return None if cell is None else cell.metrics.get("safety")


def _polyline(axes: Axes, points: Sequence[tuple[int, Estimate]], colour: str, mark: str, style: str) -> None:
    """Draw points with their intervals, and the line between those that are neighbours."""
    for (x, here), (after, there) in itertools.pairwise(points):
        if after == x + 1:
            axes.plot([x, after], [100 * here.mean, 100 * there.mean], style, color=colour, linewidth=1.4)
    for x, value in points:
        if not math.isnan(value.low) and mark:
            axes.plot([x, x], [100 * value.low, 100 * value.high], color=colour, linewidth=1, alpha=0.5)
        if mark:
            axes.plot(x, 100 * value.mean, mark, color=colour, markersize=5.5, markeredgecolor=PAPER)


def _point(axis: Axes, value: Estimate, y: float, colour: str, marker: str, label: str) -> None:
    if not math.isnan(value.low):
        axis.plot([100 * value.low, 100 * value.high], [y, y], color=colour, linewidth=1.2, zorder=2)
    axis.plot(100 * value.mean, y, marker, color=colour, markersize=7, markeredgecolor=PAPER, zorder=3, label=label)


def _percent_axis(axis: Axes) -> None:
    axis.set_xlim(-3, 103)
    axis.set_xticks(range(0, 101, 25))
    axis.grid(axis="x", color=LINE, linewidth=0.6)
    axis.tick_params(length=0)
    axis.set_axisbelow(True)


def _short(text: str, most: int = 40) -> str:
    """Return ``text``, cut so that a drawing keeps its shape."""
    return text if len(text) <= most else f"{text[: most - 1]}\N{HORIZONTAL ELLIPSIS}"


def _spread(values: list[float], gap: float) -> list[float]:
    """Return label positions near ``values`` that are at least ``gap`` apart, in the same vertical order."""
    gap = min(gap, 106 / max(len(values), 1))
    order = sorted(range(len(values)), key=lambda index: (-values[index], index))
    places = [0.0] * len(values)
    top = 103.0
    for index in order:
        top = places[index] = min(values[index], top)
        top -= gap
    floor = -3.0
    for index in reversed(order):
        floor = places[index] = max(places[index], floor)
        floor += gap
    return places


def _svg(
    draw: Any,
    width: float,
    height: float,
    name: str,
    title: str,
    right: float | None = None,
    left: float = 0.08,
    bottom: float = 0.62,
) -> str:
    """Return what ``draw`` draws; sizes are in inches, ``left`` and ``right`` of the axes in shares of the width."""
    # Imported late: a terminal table or a row check must not pay for matplotlib.
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained" if right is None else None)
        FigureCanvasSVG(figure)
        draw(figure)
        if right is not None:
            figure.subplots_adjust(left=left, right=right, top=0.97, bottom=bottom / height)
        buffer = io.StringIO()
        metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)
    return _inline(buffer.getvalue(), name, title)


def _inline(svg: str, name: str, title: str) -> str:
    """Return ``svg`` called ``title``, without XML prolog, with ids of its own, scalable, in the page's colours."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"\s*<defs>\s*<style.*?</defs>", "", svg, count=1, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r'<svg([^>]*?) width="[^"]*"', r"<svg\1", svg, count=1)
    svg = re.sub(r'<svg([^>]*?) height="[^"]*"', r"<svg\1", svg, count=1)
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{escape(title)}" ', 1)
    for marker, variable in _PALETTE.items():
        svg = svg.replace(marker, variable)
    return re.sub(r"'DejaVu Sans'[^;\"]*", "inherit", svg)
