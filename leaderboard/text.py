"""The ranking as a table for the terminal."""

from __future__ import annotations

from rich import box
from rich.table import Table
from rich.text import Text

from benchmark.errors import UsageError, unknown_name
from leaderboard.ranking import Board, Estimate, Standing, boards
from leaderboard.rows import Rows
from leaderboard.site import percent, spread


def render_table(rows: Rows, suite: str, scenario: str = "") -> Table:
    """Return the ranking of ``suite``, over all compared scenarios or in one attacked ``scenario``.

    Local rows are ranked where nothing is published.

    Raises:
        UsageError: There are no rows of that suite or scenario (names the nearest one).
    """
    by_suite = {board.suite: board for board in boards(rows)}
    if suite not in by_suite:
        raise unknown_name("suite with rows", suite, by_suite)
    board = by_suite[suite]
    if scenario and scenario not in board.by_scenario:
        if scenario in {entry.id for entry in board.scenarios}:
            raise UsageError(
                f"scenario {scenario!r} is an un-attacked twin; its figures are in the column 'no attack' of "
                f"{', '.join(entry.id for entry in board.scenarios if entry.attacked and entry.twin == scenario)}"
            )
        raise unknown_name("attacked scenario with rows", scenario, board.by_scenario)
    return board_table(board, scenario)


def board_table(board: Board, scenario: str = "") -> Table:
    """Return a ranking of ``board``, compact: percent, mean ± standard deviation over seeds."""
    seeds = f"{len(board.seeds)} seed{'s' if len(board.seeds) != 1 else ''}"
    titles = {entry.id: entry.info["title"] for entry in board.scenarios}
    names = ", ".join(titles[name] for name in board.compared) or "no scenario"
    standings = board.by_scenario[scenario] if scenario else board.overall
    what = titles[scenario] if scenario else f"Mean over: {names}"
    caption = [
        f"{what}. Percent, mean ± SD over seeds; differences inside the spread are not separated.",
        "gate: utility below the gate, not ranked. same: the same function as a simpler rule here.",
        "none: no score. ref: reference row, never ranked.",
        *(_explained(standing) for standing in standings if standing.group == "unranked"),
    ]
    table = Table(
        title=Text(f"{board.info['title']}{', local rows only' if board.local_only else ''}, {seeds}"),
        caption=Text("\n".join(caption)),
        box=box.SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
        padding=(0, 1, 0, 0),
    )
    table.add_column("#", justify="right", style="dim", min_width=2)
    table.add_column("defense", min_width=18)
    for heading in ("safety", "no attack", "refuses", "utility"):
        table.add_column(heading, justify="right", no_wrap=True, min_width=10)
    table.add_column("", style="dim")
    for standing in standings:
        table.add_row(*_line(standing, board.local_only), style="" if standing.rank else "dim")
    return table


def _line(standing: Standing, local_only: bool) -> list[Text]:
    metrics = standing.metrics
    marks = [origin for origin in standing.entry.origins if origin != "committed" and not local_only]
    label = _LABELS.get(standing.group, "")
    remarks = [*marks, *([label] if label else [])]
    shares = [_share(metrics.get(name)) for name in ("safety", "twin_safety", "over_refusal", "utility")]
    cells = [str(standing.rank or ""), standing.entry.id, *shares, "; ".join(remarks)]
    return [Text(cell) for cell in cells]  # not markup: brackets in names stay brackets


def _explained(standing: Standing) -> str:
    """Return why a defense has no rank: the first reason, and how many more there are."""
    first, *more = standing.notes or ("no score",)
    return f"{standing.entry.id} is not ranked: {first}{f', and {len(more)} more' if more else ''}."


_LABELS = {"below_gate": "gate", "degenerate": "same", "unranked": "none", "reference": "ref"}


def _share(value: Estimate | None) -> str:
    return f"{percent(value)}{spread(value)}".replace(" ", "")
