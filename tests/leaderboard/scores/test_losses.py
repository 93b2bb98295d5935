"""The split of a loss, worked by hand."""

from __future__ import annotations

import pytest

from leaderboard.scores.losses import split_loss
from leaderboard.scores.stats import EXACT, paired


def test_both_parts_add_up_to_the_whole_loss() -> None:
    start, twin, attacked = {1: 0.9, 2: 0.9, 3: 0.9}, {1: 0.8, 2: 0.7, 3: 0.75}, {1: 0.3, 2: 0.1, 3: 0.35}
    loss = split_loss(start, twin, attacked, 100)
    assert loss is not None
    assert loss.tuning.mean == pytest.approx(0.15)
    assert loss.attack.mean == pytest.approx(0.5)
    assert loss.tuning == paired([0.9] * 3, [0.8, 0.7, 0.75], 100)
    assert loss.attack == paired([0.8, 0.7, 0.75], [0.3, 0.1, 0.35], 100)
    assert loss.attack.low > 0


def test_only_shared_seeds_are_paired() -> None:
    loss = split_loss({1: 1.0, 2: 0.0}, {2: 0.0, 1: 0.5}, {1: 0.25, 9: 0.0})
    assert loss is not None
    assert (loss.tuning.mean, loss.attack.mean, loss.attack.count) == (0.5, 0.25, 1)
    assert split_loss({1: 1.0}, {1: 1.0}, {}) is None


def test_a_share_that_does_not_vary_gets_the_exact_interval_and_a_margin_none() -> None:
    flat = {1: 0.5, 2: 0.5}
    share = split_loss({1: 1.0, 2: 1.0}, flat, flat, 100)
    margin = split_loss({1: 2.0, 2: 2.0}, flat, flat)
    assert share is not None
    assert margin is not None
    assert (share.tuning.method, margin.tuning.method) == (EXACT, "")
    assert margin.tuning.mean == 1.5
