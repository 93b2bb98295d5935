"""The safety margin beside safety, and the split of what is lost of each, from a board.

A suite without likelihoods has no margin; its boards answer every question here with nothing.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from leaderboard.ranking.board import Board
from leaderboard.scores.losses import Loss, split_loss
from leaderboard.scores.names import MetricKind
from leaderboard.scores.summaries import OVERALL
from leaderboard.views.rank_agreement import RankAgreement, order_agreement

START = "keep_initial"
"""The reference row that serves the start model: it returns the adapter with which training begins."""
MARGIN = MetricKind.MARGIN.value


def has_margin(board: Board) -> bool:
    """Return whether the cells of a board have a safety margin."""
    return any(MARGIN in cell.metrics for cell in board.settled_cells)


def loss_of(board: Board, view: str, defense: str, metric: str = "safety") -> Loss | None:
    """Return what a defense loses of a metric to honest fine-tuning and to the attack.

    Args:
        board: The board.
        view: An attacked scenario, or :data:`leaderboard.scores.summaries.OVERALL` for the mean over the compared ones.
        defense: Registry id or pipeline.
        metric: ``safety`` or ``margin``; higher is better.

    Returns:
        The loss, or ``None`` where the start model, the twin or the attacked cells lack the metric.
    """
    names = board.compared if view == OVERALL else (view,)
    known = {entry.id for entry in board.entries}
    if not names or not {START, defense} <= known:
        return None
    twin_of = {scenario.id: scenario.twin for scenario in board.scenarios}
    twins = [twin_of[name] for name in names]
    present = {scenario.id for scenario in board.scenarios}
    if not present.issuperset(twins):
        return None
    probes = min(board.entry(defense).scenarios[name].probes(metric) for name in names)
    start, twin = (_by_seed(board, each, twins, metric) for each in (START, defense))
    return split_loss(start, twin, _by_seed(board, defense, names, metric), probes)


def margin_agreement(board: Board) -> dict[str, RankAgreement]:
    """Return by view how far the order of the defenses by safety and the order by margin agree.

    The coefficient is Kendall's tau-b. A view in which fewer than two defenses have both is absent.
    """
    cells = [cell for cell in board.settled_cells if cell.row["final"]]
    attacked = [scenario.id for scenario in board.scenarios if scenario.attacked]
    return {each.scenario: each for each in order_agreement(cells, attacked, board.compared, ("safety", MARGIN))}


def _by_seed(board: Board, defense: str, names: Sequence[str], metric: str) -> dict[int, float]:
    """Return the mean of a metric over scenarios, by the seeds that all of them have."""
    values = [board.entry(defense).scenarios[name].values.get(metric, {}) for name in names]
    shared = set.intersection(*(set(by_seed) for by_seed in values))
    return {seed: statistics.fmean(by_seed[seed] for by_seed in values) for seed in sorted(shared)}
