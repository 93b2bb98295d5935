"""Ranks and ties by hand."""

from __future__ import annotations

import numpy as np

from leaderboard.ranking.board import Family
from leaderboard.ranking.ties import Place, ranks
from leaderboard.scores.stats import compare_all


def test_ranks_count_the_significantly_better_and_show_ties() -> None:
    # 0 beats 2 and 3, 1 beats 3 only: 1 is tied with 0 and with 2, which 0 and 2 are not with each other.
    better = np.zeros((4, 4), bool)
    better[0, [2, 3]] = better[1, 3] = True
    assert list(ranks(better)) == [1, 1, 2, 3]


def test_a_place_names_who_is_safer_and_who_is_tied() -> None:
    values = np.array([[1.0, 0.98, 0.99, 1.0, 0.97], [0.96, 1.0, 0.99, 0.98, 1.0], [0.1, 0.12, 0.09, 0.11, 0.1]])
    family = Family(("krum", "dnc", "fedavg"), compare_all(values))
    assert Place.of(family, "krum") == Place(1, (), ("dnc",))
    assert Place.of(family, "fedavg") == Place(3, ("krum", "dnc"), ())


def test_without_a_family_there_is_no_rank() -> None:
    assert Place.of(None, "krum") == Place(None, (), ())
