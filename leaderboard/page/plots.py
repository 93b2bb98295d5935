"""Figures as SVG text, drawn with matplotlib, deterministic byte for byte, and coloured by the page's own palette.

Text stays text, and ink and series colours become CSS variables, so that one figure serves light, dark and print.
"""

from __future__ import annotations

import io
import math
import re
from typing import TYPE_CHECKING, Any

from markupsafe import escape

from leaderboard.ranking.board import NOT_REPRODUCED, RANKED, REFERENCE, Board
from leaderboard.ranking.grid import BASELINE
from leaderboard.scores.stats import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PALETTE = {
    "#010101": "var(--ink)",
    "#020202": "var(--muted)",
    "#030303": "var(--line)",
    "#040404": "var(--good)",
    "#050505": "var(--bad)",
    "#060606": "var(--paper)",
}
INK, MUTED, LINE, GOOD, BAD, PAPER = _PALETTE
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
    apart = (REFERENCE, NOT_REPRODUCED)
    utilities = [100 * standing.metrics["utility"].mean for standing in scored if standing.group not in apart]
    if not utilities:
        return ""
    # Reference rows of no utility would squeeze everything else into a line.
    left = max(0, 5 * math.floor((min(utilities) - 2) / 5))
    right = 100 + 0.03 * (100 - left)
    points = [standing for standing in scored if 100 * standing.metrics["utility"].mean >= left]
    colours = {RANKED: GOOD, **dict.fromkeys(apart, MUTED)}
    markers = {RANKED: "o", **dict.fromkeys(apart, "s")}

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
                marker = markers.get(standing.group, "X")
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
) -> str:
    """Return what ``draw`` draws; sizes are in inches, ``right`` of the axes in shares of the width."""
    # Imported late: a terminal table or a row check must not pay for matplotlib.
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained" if right is None else None)
        FigureCanvasSVG(figure)
        draw(figure)
        if right is not None:
            figure.subplots_adjust(left=0.08, right=right, top=0.97, bottom=0.62 / height)
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
