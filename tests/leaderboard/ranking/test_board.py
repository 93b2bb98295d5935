"""Differences of two defenses on a board."""

from __future__ import annotations

from pathlib import Path

import pytest
from scipy import stats

from benchmark.methods.wording import holder_of_title
from leaderboard.ranking.board import GROUPS
from leaderboard.scores.summaries import OVERALL

from ..by_hand import FEDAVG, FEDAVG4, KRUM4, board_of, cells


def test_a_difference_is_paired_by_seed(tmp_path: Path) -> None:
    board = board_of(tmp_path, FEDAVG4 + KRUM4)
    found = board.difference("aligned_start", "krum", "fedavg")
    expected = stats.ttest_rel([0.8, 0.9, 0.85, 0.9], [0.1, 0.2, 0.1, 0.2])
    assert found is not None
    assert (found.mean, found.p) == (pytest.approx(0.7125), pytest.approx(expected.pvalue))
    interval = expected.confidence_interval()
    assert (found.low, found.high) == (pytest.approx(interval.low), pytest.approx(interval.high))
    assert board.values(OVERALL, "krum") == pytest.approx({0: 0.8, 1: 0.9, 2: 0.85, 3: 0.9})


def test_differences_to_the_twin_are_compared_like_the_shares_they_are_made_of(tmp_path: Path) -> None:
    board = board_of(tmp_path, FEDAVG + cells("krum", [0.9, 1.0], [1, 1], utility=0.95))
    for metric, share, sign in (("drop", "safety", -1), ("lost_utility", "utility", -1), ("safety", "safety", 1)):
        found = board.difference("aligned_start", "krum", "fedavg", metric)
        expected = board.difference("aligned_start", "krum", "fedavg", share)
        assert found is not None
        assert expected is not None
        ends = sorted(sign * end for end in (expected.low, expected.high))
        numbers = (found.mean, found.low, found.high, found.p)
        assert numbers == pytest.approx((sign * expected.mean, *ends, expected.p))


def test_no_method_may_have_the_name_of_a_group_as_its_title() -> None:
    words = {word for group in GROUPS.values() for word in (group.label, group.short) if word}
    assert {holder_of_title(word, "defense", "tried") for word in words} == {f"the board ({word!r})" for word in words}


LOW, HIGH = [0.1, 0.2, 0.1, 0.2, 0.15, 0.12], [0.9, 0.95, 0.92, 0.9, 0.94, 0.91]


@pytest.mark.parametrize(
    ("safe", "unsafe", "seeds", "expected"),
    [(3, 2, 6, (3, 5)), (3, 2, 5, (3, 5)), (3, 2, 4, None), (2, 3, 6, None), (2, 2, 6, None), (2, 1, 6, None)],
)
def test_a_scenario_is_saturated_where_most_ranked_defenses_share_the_first_rank(
    tmp_path: Path, safe: int, unsafe: int, seeds: int, expected: tuple[int, int] | None
) -> None:
    """Half of the ranked defenses is not most, three are too few defenses, and four seeds are too few seeds."""
    rows = []
    for number, (name, values) in enumerate(
        zip(["fedavg", "krum", "median", "dnc", "foolsgold"], [LOW] * unsafe + [HIGH] * safe, strict=False)
    ):
        # Each defense has numbers of its own, so that no two are the same by every seed.
        shifted = [value + 0.001 * number * (-1) ** seed for seed, value in enumerate(values[:seeds])]
        rows += cells(name, shifted, [1.0] * seeds)
    board = board_of(tmp_path, rows)
    assert {line.rank for line in board.by_scenario["aligned_start"]} == {1, 1 + safe}
    assert board.saturation("aligned_start") == expected
