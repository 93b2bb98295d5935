"""Ranking as a table for the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable

from rich import box
from rich.table import Table
from rich.text import Text

from benchmark.screen import Fitted, printable
from leaderboard.citation.cite import find_view, of_suite
from leaderboard.page.formats import DASH, percent
from leaderboard.ranking.board import GROUPS, NOT_REPRODUCED, RANKED, UNRANKED, Board, Standing
from leaderboard.ranking.grid import BASELINE
from leaderboard.rows.rungs import MEANINGS, PROJECTS_OWN, RANKED_ARE, RUNGS
from leaderboard.scores.names import MetricKind, member
from leaderboard.scores.stats import EXACT, Estimate
from leaderboard.scores.summaries import OVERALL

_HOW_TO_READ = (
    "Percent with 95 % interval over seeds. #: 1 + the number of defenses that are significantly safer (paired by "
    "seed, Holm); equal ranks are ties. vs: safer than FedAvg, worse, or tied."
)
_BEST = "best: the lowest safety under a scenario's own attack and reproduced submitted ones; o: not all were tried."
_TUNED = "tuned: the lowest safety under a scenario's own attack and one that a search tuned against the defense."
_ONE_SEED = "Percent. One seed: no intervals and no ranks, the order is that of the means."
_NOT_RUN = "not run: the suite runs the un-attacked twin for other defenses; the rank does not need it."
_MEANINGS = {
    "gate": "gate: utility or over-refusal beyond the gate, not ranked.",
    "same": "same: the same function as a simpler rule here, not ranked.",
    "none": "none: no score.",
    "ref": "ref: reference row, never ranked.",
}


def render_table(boards: Iterable[Board], suite: str, scenario: str = "") -> Fitted:
    """Return the ranking of ``suite``, over all compared scenarios or in one attacked ``scenario``.

    Local rows are ranked where nothing is published.

    Raises:
        UsageError: There are no rows of that suite or scenario, or no such suite (names the nearest one).
    """
    way_out = (
        f"make some with `fedsafety run --suite {suite}`, or name folders that have some with --results and --runs"
    )
    board = of_suite(boards, suite, way_out=way_out)
    find_view(board, scenario)
    return board_table(board, scenario)


def board_table(board: Board, scenario: str = "") -> Fitted:
    """Return a ranking of ``board``, compact: percent, with 95 % intervals over seeds."""
    view = scenario or OVERALL
    count = len(board.seeds_of(view))
    seeds = f"{count} seed{'s' if count != 1 else ''}"
    table = Table(
        title=Text(f"{board.info['title']}{', local rows only' if board.local_only else ''}, {seeds}"),
        caption=Text("\n".join(_caption(board, view))),
        box=box.SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
        padding=(0, 1, 0, 0),
    )
    table.add_column("#", justify="right", style="dim", min_width=2)
    table.add_column("defense")
    ratings = [str(board.judge_infos[judge]["title"]) for judge in board.ratings]
    worst = ["worst"] if view == OVERALL else []
    numbers = ["safety", *worst, *_best(board), "clean", "refuses", "utility", *ratings]
    for heading in numbers:
        table.add_column(heading, justify="right", no_wrap=True)
    lines = [(standing, _line(board, view, standing)) for standing in _shown(board, view)]
    table.add_column("vs", style="dim", no_wrap=True)
    for standing, line in lines:
        table.add_row(*line, style="" if standing.group == RANKED else "dim")
    # The last column holds the origin of a line's rows, so numbers are left out before it.
    return Fitted(table, names=2, first_out=[*reversed(numbers[1:]), "vs"])


def _best(board: Board) -> list[str]:
    """Return the headings of the columns of the best known and the worst tuned attacks, where there are any."""
    return [*(["best"] if board.has_best_known else []), *(["tuned"] if board.has_worst_tuned else [])]


def _caption(board: Board, view: str) -> list[str]:
    titles = {scenario.id: scenario.info["title"] for scenario in board.scenarios}
    standings = _shown(board, view)
    marks = {GROUPS[standing.group].short for standing in standings}
    exact = any(standing.metrics["safety"].method == EXACT for standing in standings if "safety" in standing.metrics)
    means = ", ".join(titles[name] for name in board.compared) or "no scenario"
    return [
        f"{titles[view]}." if view != OVERALL else f"Mean over: {means}. worst: the lowest of them. clean: no attack.",
        _ONE_SEED if len(board.seeds_of(view)) == 1 else _HOW_TO_READ,
        *(["x: the seeds do not vary, so the interval is that of the probes (exact)."] if exact else []),
        *([_BEST] if board.has_best_known else []),
        *([_TUNED] if board.has_worst_tuned else []),
        *(text for mark, text in _MEANINGS.items() if mark in marks),
        *([_NOT_RUN] if any(standing.clean_left_out for standing in standings) else []),
        *_rungs(standings),
        *(_explained(standing) for standing in standings if standing.group == UNRANKED),
    ]


def _rungs(standings: list[Standing]) -> list[str]:
    """Return what the rungs of the listed submissions mean, with a word on those that carry none."""
    named = {standing.entry.rung.name for standing in standings if standing.entry.rung}
    meanings = [f"{name}: {MEANINGS[name]}." for name in RUNGS if name in named]
    return [*meanings, f"{RANKED_ARE} {PROJECTS_OWN}"] if meanings else []


def _shown(board: Board, view: str) -> list[Standing]:
    """Return the lines of a view without the variants that other scenarios ask for."""
    return [line for line in board.standings(view) if "safety" in line.metrics or not line.entry.variant]


def _explained(standing: Standing) -> str:
    """Return why a defense has no rank: the first reason without its way out, and how many more there are."""
    first, *more = standing.notes or ("no score",)
    return f"{standing.entry.id}: {first.partition(';')[0]}{f', and {len(more)} more' if more else ''}."


def _line(board: Board, view: str, standing: Standing) -> list[Text]:
    metrics = standing.metrics
    safety = metrics.get("safety")
    worst = [percent(standing.worst[1] if standing.worst else None)] if view == OVERALL else []
    if board.has_best_known:
        untried = " o" if standing.best_known and standing.best_known.spared else "  "
        worst.append(f"{percent(metrics.get('best_known'))}{untried}")
    if board.has_worst_tuned:
        worst.append(percent(metrics.get("worst_tuned")))
    shares = [percent(metrics.get(name)) for name in ("twin_safety", "over_refusal", "utility")]
    shares[0] = "not run" if standing.clean_left_out and "twin_safety" not in metrics else shares[0]
    origins = [origin for origin in standing.entry.origins if origin != "committed" and not board.local_only]
    if standing.entry.rung is not None:
        origins = [standing.entry.rung.name]
    beside = "" if standing.group == NOT_REPRODUCED else GROUPS[standing.group].short or _beside_fedavg(standing)
    remarks = [*origins, beside]
    ratings = [member(MetricKind.RATING, judge) for judge in board.ratings]
    cells = [
        str(standing.rank or ""),
        standing.entry.id,
        f"{percent(safety)}{_interval(safety)}",
        *worst,
        *shares,
        *(f"{metrics[name].mean:.2f}" if name in metrics else DASH for name in ratings),
        ", ".join(filter(None, remarks)),
    ]
    # A Text is printed without markup, so brackets in names stay brackets.
    return [Text(printable(cell)) for cell in cells]


def _interval(value: Estimate | None) -> str:
    """Return a 95 % interval in whole percent as `` [37, 56]``, with an x where it is exact; empty if there is none."""
    if value is None or math.isnan(value.low):
        return ""
    low, high = (percent(bound, 0) for bound in (value.low, value.high))
    return f" [{low:>2},{high:>3}]{'x' if value.method == EXACT else ' '}"


def _beside_fedavg(standing: Standing) -> str:
    """Return how a ranked defense compares with FedAvg."""
    if standing.rank is None or standing.entry.id == BASELINE:
        return ""
    if BASELINE in standing.tied:
        return "tied"
    return "worse" if BASELINE in standing.better else "safer"
