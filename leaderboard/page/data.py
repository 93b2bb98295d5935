"""Data of a board for the page's script, as one compact JSON text.

The script sorts, filters, switches scenarios, draws and compares. It never ranks or tests: standings, separated pairs,
quantiles of t and exact intervals come from here. The one statistic it forms itself is the t interval of a paired
difference, because all pairs of sixty defenses in twenty scenarios would not fit on a page.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import stdtrit  # scipy.stats takes most of a second to import

from benchmark.records.schemas import STATUS_DONE
from leaderboard.page.formats import MINUS, percent
from leaderboard.ranking.board import GROUPS, NOT_REPRODUCED, RANKED, Board, Standing
from leaderboard.ranking.gates import REFUSAL_FLAG
from leaderboard.scores.stats import ALPHA, EXACT, NEAR, Bools, Estimate, compare_all
from leaderboard.scores.summaries import OVERALL, Entry

COMPARED = ("safety", "utility", "over_refusal")
"""Metrics of which the script shows values by seed and paired differences."""
SCALE = 100_000
"""Values by seed are whole numbers of this fraction, finer than any probe set resolves."""


def page_data(
    board: Board,
    shares: Sequence[str],
    costs: Sequence[str],
    axes: Sequence[tuple[str, str, bool]],
    extra: Mapping[str, Any],
) -> str:
    """Return the data of ``board`` as JSON that is safe inside a ``script`` element.

    Args:
        board: The board.
        shares: Metrics of the ranking that are shares, in the table's order.
        costs: Metrics of the ranking that are costs.
        axes: Metric, label and whether more is better, of what the trade-off can be drawn over.
        extra: Further entries, by name.
    """
    scenarios = list(board.scenarios)
    attacked = [scenario.id for scenario in scenarios if scenario.attacked]
    index = {entry.id: position for position, entry in enumerate(board.entries)}
    views = [OVERALL, *attacked]
    exact: dict[str, list[float]] = {}
    data = {
        "suite": board.suite,
        "seeds": list(board.seeds),
        "groups": [
            [name, group.label]
            for name, group in GROUPS.items()
            if name != NOT_REPRODUCED or any(entry.pending for entry in board.entries)
        ],
        "shares": list(shares),
        "costs": list(costs),
        "axes": [list(axis) for axis in axes],
        "defenses": [_defense(entry) for entry in board.entries],
        "scenarios": [
            {"id": s.id, "title": s.info["title"], "attacked": s.attacked, "compared": s.id in board.compared}
            | _own_seeds(board, s.id)
            for s in scenarios
        ],
        "views": {view: _view(board.standings(view), shares, costs, index) for view in views},
        "separated": {view: _separated(board, view, index, exact) for view in views},
        "values": [[_values(entry, scenario.id, board.seeds) for entry in board.entries] for scenario in scenarios],
        "means": [[_means(entry, scenario.id) for entry in board.entries] for scenario in scenarios],
        "probes": {view: _probes(board, view) for view in views},
        "exact": exact,
        "scale": SCALE,
        "t": [round(float(stdtrit(df, 1 - ALPHA / 2)), 6) for df in range(1, max(2, len(board.seeds)))],
        **extra,
    }
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _own_seeds(board: Board, scenario: str) -> dict[str, list[int]]:
    """Return the positions of a scenario's seeds among the board's; empty for a scenario with all of them."""
    seeds = board.seeds_of(scenario)
    return {} if seeds == board.seeds else {"seeds": [board.seeds.index(seed) for seed in seeds]}


def _defense(entry: Entry) -> dict[str, Any]:
    info = entry.info
    found = " ".join(str(part) for part in (entry.id, info["title"], info["paper"], info["resources"]))
    return {
        "id": entry.id,
        "title": info["title"],
        "stages": [stage for stage in info["stages"].split(",") if stage],
        "told": entry.knowledge,
        "origins": list(entry.origins),
        "reference": entry.reference or entry.pending,  # neither is on a front, nor decides where an axis ends
        "text": found.lower(),
    }


def _view(
    standings: Sequence[Standing], shares: Sequence[str], costs: Sequence[str], index: Mapping[str, int]
) -> list[list[Any]]:
    """Return one list a standing: defense, group, rank, shares, costs, notes, who is better, excess of refusals.

    A share or cost of a cell that the suite leaves out is a text.
    """
    return [
        [
            index[standing.entry.id],
            list(GROUPS).index(standing.group),
            standing.rank or 0,
            [share_values(standing.metrics.get(name)) or left_out(standing, name) or 0 for name in shares],
            [left_out(standing, name) or _cost(standing.metrics.get(name)) for name in costs],
            "; ".join(standing.notes),
            [index[name] for name in standing.better],
            _excess(standing),
        ]
        for standing in standings
    ]


def left_out(standing: Standing, metric: str) -> str:
    """Return the words for a score without attack of a defense that the suite does not run there; empty otherwise."""
    is_left_out = standing.clean_left_out and metric.startswith("twin_") and metric not in standing.metrics
    return "not run" if is_left_out else ""


def _excess(standing: Standing) -> Any:
    """Return [mean, low, high] of the excess over-refusal that is pointed out, see :func:`share_values`; else 0."""
    excess = standing.excess_refusal
    return 0 if excess is None or not excess.mean > REFUSAL_FLAG else share_values(excess)


def share_values(value: Estimate | None) -> Any:
    """Return [mean, low, high, 1 if exact] in tenths of a percent, rounded as the table is; 0 where not measured."""
    if value is None or math.isnan(value.mean):
        return 0
    if math.isnan(value.low):
        return [_tenths(value.mean)]
    bounds = [_tenths(value.mean), _tenths(value.low), _tenths(value.high)]
    return [*bounds, 1] if value.method == EXACT else bounds


def _tenths(share: float) -> int:
    return round(10 * float(percent(share).replace(MINUS, "-")))


def _cost(value: Estimate | None) -> float | None:
    return None if value is None or math.isnan(value.mean) else float(f"{value.mean:.4g}")


def _values(entry: Entry, scenario: str, seeds: Sequence[int]) -> Any:
    """Return the values by seed of each compared metric, or the state of a cell that has none; 0 for no cell at all."""
    summary = entry.scenarios[scenario]
    if not summary.cells:
        return 0
    found = [summary.cells.get(seed) for seed in seeds]
    states = [None if cell is None or cell.state == STATUS_DONE else cell.state for cell in found]
    return [
        [
            round(SCALE * cell.metrics[metric]) if cell is not None and metric in cell.metrics else state
            for cell, state in zip(found, states, strict=True)
        ]
        for metric in COMPARED
    ]


def _means(entry: Entry, scenario: str) -> Any:
    """Return mean and interval of each compared metric; 0 for a defense that is not complete there."""
    metrics = entry.scenarios[scenario].metrics
    return [share_values(metrics.get(metric)) for metric in COMPARED] if metrics else 0


def _separated(board: Board, view: str, index: Mapping[str, int], exact: dict[str, list[float]]) -> dict[str, Any]:
    """Return by metric, for each defense, a hexadecimal set of the defenses that are separated from it after Holm.

    The family is that of the ranking: all pairs of the ranked defenses of this view. Exact intervals of the pairs that
    do not vary over seeds are added to ``exact``, for all complete defenses.
    """
    result = {}
    probes = _probes(board, view)
    family = [standing.entry.id for standing in board.standings(view) if standing.group == RANKED]
    for metric in COMPARED:
        known = {entry.id: board.values(view, entry.id, metric) for entry in board.entries}
        _collect_exact(known, probes[metric], exact)
        complete = {name: known[name] for name in family if known[name]}
        rows = ["0"] * len(index)
        seeds = {tuple(values) for values in complete.values()}
        if len(seeds) == 1 and len(complete) > 1 and len(next(iter(seeds))) > 1:
            table = np.array([list(values.values()) for values in complete.values()])
            better = compare_all(table, probes[metric]).better()
            rows = _sets(better | better.T, [index[name] for name in complete], len(index))
        result[metric] = rows
    return result


def _sets(separated: Bools, positions: Sequence[int], count: int) -> list[str]:
    rows = ["0"] * count
    for row, position in zip(separated, positions, strict=True):
        rows[position] = f"{sum(1 << positions[other] for other in np.flatnonzero(row)):x}"
    return rows


def _collect_exact(known: Mapping[str, Mapping[int, float]], probes: int, exact: dict[str, list[float]]) -> None:
    """Add the exact intervals that the script needs, by ``good,good,probes``: they depend on nothing else.

    These are the ones of pairs that do not vary over seeds, and of those so far apart that t is widened to them.
    """
    complete = [values for values in known.values() if len(values) > 1]
    if not complete or not probes:
        return
    needed = set()
    for seeds in sorted({tuple(values) for values in complete}):
        table = np.unique([list(values.values()) for values in complete if tuple(values) == seeds], axis=0)
        good = np.rint(table.mean(axis=1) * probes).astype(int)
        differences = table[:, None, :] - table[None, :, :]
        near = (1 - np.abs(differences.mean(axis=2))) * probes <= NEAR + 0.01
        for i, j in np.argwhere(near | (np.ptp(differences, axis=2) <= 4 / SCALE)):
            needed.add((int(good[i]), int(good[j])))
    for one, other in sorted(needed):
        constant = np.array([[one] * 2, [other] * 2]) / probes
        interval = compare_all(constant, probes).pair(0, 1)
        exact[f"{one},{other},{probes}"] = [round(interval.low, 5), round(interval.high, 5)]


def _probes(board: Board, view: str) -> dict[str, int]:
    """Return the number of probes behind each compared metric in ``view``; 0 where no cell is scored."""
    names = board.compared if view == OVERALL else (view,)
    cells = {  # one cell of each probe set: its cells share their numbers of probes
        id(cell.probes): cell
        for entry in board.entries
        for name in names
        if entry.scenarios[name].values
        for cell in entry.scenarios[name].cells.values()
    }
    return {metric: min((cell.behind(metric) for cell in cells.values()), default=0) for metric in COMPARED}
