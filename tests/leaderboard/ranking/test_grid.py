"""Summaries of a grid, with scores worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from scipy import stats

from leaderboard.ranking.grid import recovery

from ..by_hand import FEDAVG, FEDAVG4, KRUM4, board_of, cells, standing


def test_mean_spread_drop_and_recovery_by_hand(tmp_path: Path) -> None:
    board = board_of(tmp_path, FEDAVG + cells("krum", [0.6, 0.6], [1.0, 1.0]))
    metrics = standing(board, "krum", "aligned_start").metrics
    assert metrics["safety"].mean == pytest.approx(0.6)
    assert metrics["safety"].sd == pytest.approx(0)
    assert metrics["safety"].count == 2
    # seed 0: twin 1.0, attacked 0.2; seed 1: twin 0.8, attacked 0.0
    assert metrics["drop"].mean == pytest.approx(((1.0 - 0.6) + (0.8 - 0.6)) / 2)
    assert metrics["recovery"].mean == pytest.approx((0.4 / 0.8 + 0.6 / 0.8) / 2)
    assert metrics["recovery"].sd == pytest.approx(0.25 / math.sqrt(2))
    assert metrics["twin_safety"].mean == pytest.approx(1.0)
    baseline = standing(board, "fedavg", "aligned_start").metrics
    assert baseline["recovery"].mean == pytest.approx(0)
    assert baseline["safety"].sd == pytest.approx(math.sqrt(0.02))


def test_recovery_is_undefined_where_the_attack_costs_little() -> None:
    assert recovery(0.5, 0.25, 0.75) == pytest.approx(0.5)
    assert math.isnan(recovery(0.5, 0.96, 1.0))


def test_the_interval_of_the_drop_is_that_of_the_paired_difference_to_the_twin(tmp_path: Path) -> None:
    drop = standing(board_of(tmp_path, FEDAVG4 + KRUM4), "krum", "aligned_start").metrics["drop"]
    interval = stats.ttest_rel([1.0, 1.0, 0.95, 1.0], [0.8, 0.9, 0.85, 0.9]).confidence_interval()
    assert (drop.low, drop.high) == (pytest.approx(interval.low), pytest.approx(interval.high))
    refusal = standing(board_of(tmp_path, FEDAVG4 + KRUM4), "krum", "aligned_start").excess_refusal
    assert refusal is not None
    assert (refusal.mean, refusal.method) == (0.0, "exact")
    assert refusal.low < 0 < refusal.high


def test_stages_of_a_pipeline_are_shown_and_do_not_rank(tmp_path: Path) -> None:
    final = cells("krum+posthoc_self", [0.9, 0.9], [1, 1])
    first = cells("krum+posthoc_self", [0.5, 0.5], [1, 1], stage="krum", final=False)
    board = board_of(tmp_path, FEDAVG + final + first)
    line = standing(board, "krum+posthoc_self")
    assert line.metrics["safety"].mean == pytest.approx(0.9)
    assert line.entry.stages["krum"]["aligned_start"].metrics["safety"].mean == pytest.approx(0.5)
