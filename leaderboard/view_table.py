"""One view of a board, the ranking overall or in one scenario, as a flat table of plain values."""

from __future__ import annotations

import math
from typing import Any

import pyarrow as pa

from leaderboard.citation.cite import find_view
from leaderboard.page.download import csv_bytes
from leaderboard.ranking.board import Board, Standing
from leaderboard.ranking.measures import MARGIN, has_margin, loss_of
from leaderboard.scores.stats import Difference, Estimate

DIGITS = 6
"""Decimals of written numbers: finer than a probe, coarser than what another processor's rounding changes."""
_FIRST = ("safety", "utility", "over_refusal", "recovery", "drop", "twin_safety", "twin_utility")
_TEXT = ("defense", "title", "group", "knowledge", "stages", "origins", "worst_scenario", "better", "tied", "notes")
_OF_SUBMISSIONS = ("rung", "bundles", "best_known_scenario", "best_known_attack", "not_attacked_by")
"""Texts that only boards with submissions have."""
_OF_SEARCHES = ("worst_tuned_scenario", "worst_tuned_attack", "worst_tuned_params")
"""Texts that only boards with attack searches have."""
_COUNTS = ("worst_tuned_trials", "worst_tuned_searches")
"""Whole numbers that only boards with attack searches have."""


def view_rows(board: Board, scenario: str = "") -> list[dict[str, Any]]:
    """Return one mapping a defense, in the order of the ranking; all have the same names.

    A metric ``m`` has its mean under ``m``, its 95 % interval under ``m_low`` and ``m_high``, its standard deviation
    over seeds under ``m_sd``, its number of seeds under ``m_seeds`` and the interval's method under ``m_method`` (see
    :class:`leaderboard.scores.stats.Estimate`); shares are in 0..1. What was not measured is ``None``.

    Where the suite measures a safety margin, ``lost_to_tuning`` and ``lost_to_attack`` split the loss of safety, and
    ``margin_lost_to_tuning`` and ``margin_lost_to_attack`` that of the margin (:mod:`leaderboard.scores.losses`), each
    with ``_low``, ``_high`` and ``_method``.

    Where something was submitted, ``rung`` and ``bundles`` hold how far it was verified (``None`` for the project's own
    runs); where a submitted attack is reproduced, ``best_known`` has its scenario and attack beside it (no attack: the
    scenario's own), and ``not_attacked_by`` names those that were not tried.

    Where an attack was searched against a defense, ``worst_tuned`` has its scenario, attack and parameters beside it
    (no attack: the scenario's own), the number of trials, and the number of scenarios of the view that were searched.

    Args:
        board: The board of one suite.
        scenario: An attacked scenario; empty for the mean over the compared ones.

    Raises:
        UsageError: The attacked scenario is unknown.
    """
    view = find_view(board, scenario)
    standings = board.standings(view)
    found = {name for standing in standings for name in standing.metrics}
    metrics = [*(name for name in _FIRST if name in found), *sorted(found - set(_FIRST))]
    losses = has_margin(board)
    return [
        _row(standing, metrics)
        | (_losses(board, view, standing.entry.id) if losses else {})
        | _of_submissions(board, standing)
        | _of_searches(board, standing)
        for standing in standings
    ]


def view_csv(board: Board, scenario: str = "") -> bytes:
    """Return a view as CSV with a heading; numbers are rounded to :data:`DIGITS`."""
    rows = view_rows(board, scenario)
    names = list(rows[0]) if rows else list(_TEXT)
    kinds = {name: pa.string() if _is_text(name) else pa.int64() if _whole(name) else pa.float64() for name in names}
    rounded = [{name: _rounded(value) for name, value in row.items()} for row in rows]
    return csv_bytes(pa.Table.from_pylist(rounded, schema=pa.schema(list(kinds.items()))))


def _row(standing: Standing, metrics: list[str]) -> dict[str, Any]:
    entry = standing.entry
    row: dict[str, Any] = {
        "rank": standing.rank,
        "defense": entry.id,
        "title": entry.info["title"],
        "group": standing.group,
        "knowledge": entry.knowledge,
        "stages": entry.info["stages"],
        "origins": ", ".join(entry.origins),
    }
    for name in metrics:
        row |= _columns(name, standing.metrics.get(name))
    worst = standing.worst
    return row | {
        "worst_scenario": worst[0] if worst else None,
        "worst_safety": worst[1].mean if worst else None,
        "better": ", ".join(standing.better),
        "tied": ", ".join(standing.tied),
        "notes": "; ".join(standing.notes),
    }


def _losses(board: Board, view: str, defense: str) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for metric, prefix in (("safety", ""), (MARGIN, f"{MARGIN}_")):
        loss = loss_of(board, view, defense, metric)
        for name in ("tuning", "attack"):
            found: Difference | None = getattr(loss, name, None)
            column = f"{prefix}lost_to_{name}"
            row[column] = _defined(found.mean) if found else None
            row |= {f"{column}_{end}": _defined(getattr(found, end)) if found else None for end in ("low", "high")}
            row[f"{column}_method"] = found.method if found else None
    return row


def _of_submissions(board: Board, standing: Standing) -> dict[str, Any]:
    row: dict[str, Any] = {}
    if board.has_submissions:
        rung = standing.entry.rung
        row |= {"rung": rung.name if rung else None, "bundles": ", ".join(rung.bundles) if rung else None}
    if board.has_best_known:
        known = standing.best_known
        row |= {
            "best_known_scenario": known.scenario if known else None,
            "best_known_attack": known.attack if known else None,
            "not_attacked_by": ", ".join(known.spared) if known else None,
        }
    return row


def _of_searches(board: Board, standing: Standing) -> dict[str, Any]:
    if not board.has_worst_tuned:
        return {}
    tuned = standing.worst_tuned
    if tuned is None:
        return dict.fromkeys((*_OF_SEARCHES, *_COUNTS))
    params: dict[str, Any] = {}
    if tuned.attack:
        params = board.searches[tuned.scenario, standing.entry.id].result.attack.params
    return {
        "worst_tuned_scenario": tuned.scenario,
        "worst_tuned_attack": tuned.attack,
        "worst_tuned_params": ", ".join(f"{name}={value}" for name, value in sorted(params.items())),
        "worst_tuned_trials": tuned.trials,
        "worst_tuned_searches": len(tuned.searches),
    }


def _columns(name: str, value: Estimate | None) -> dict[str, Any]:
    if value is None:
        return dict.fromkeys((name, *(f"{name}_{part}" for part in ("low", "high", "sd", "seeds", "method"))))
    return {
        name: _defined(value.mean),
        f"{name}_low": _defined(value.low),
        f"{name}_high": _defined(value.high),
        f"{name}_sd": _defined(value.sd),
        f"{name}_seeds": value.count,
        f"{name}_method": value.method,
    }


def _defined(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _is_text(name: str) -> bool:
    return name in _TEXT + _OF_SUBMISSIONS + _OF_SEARCHES or name.endswith("_method")


def _whole(name: str) -> bool:
    return name in ("rank", *_COUNTS) or name.endswith("_seeds")


def _rounded(value: Any) -> Any:
    return round(value, DIGITS) + 0.0 if isinstance(value, float) else value
