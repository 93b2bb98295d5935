"""FoolsGold: clients are compared by the sums of what each client id sent over all rounds."""

from __future__ import annotations

import pytest
import torch

from defenses._examples import one_round
from defenses.foolsgold import FoolsGold

from .rounds import accepts, refusal


def play(defense, rows):
    """Aggregate one round of ``{client id: update}``."""
    ids = sorted(rows)
    result = defense.aggregate(*one_round([rows[client] for client in ids], ids=ids))
    return dict(zip(ids, result.weights.tolist(), strict=True)), result.update.tolist()


def test_the_published_vector(aggregate, second_set):
    expected = [-0.0555, -0.7162, -0.6835, 0.0178]
    assert aggregate("foolsgold", second_set, 2).update.tolist() == pytest.approx(expected, abs=6e-6)


def test_the_second_set_leaves_one_trusted_client(aggregate, second_set):
    assert aggregate("foolsgold", second_set).weights.tolist() == [0, 0, 1, 0, 0, 0, 0, 0, 0]


def test_needs_2_updates():
    assert "n >= 2" in refusal("foolsgold", 1, 0)
    assert accepts("foolsgold", 2, 9)


def test_colluders_that_alternate_are_caught_by_their_sums():
    defense = FoolsGold()
    play(defense, {"a": [1.0, 0.0, 0.0], "b": [0.0, 1.0, 0.0], "c": [0.0, 0.0, 1.0]})
    # a and b swap directions: orthogonal in each round, equal in the sum.
    weights, update = play(defense, {"a": [0.0, 1.0, 0.0], "b": [1.0, 0.0, 0.0], "c": [0.0, 0.0, 1.0]})
    assert weights == {"a": 0, "b": 0, "c": 1}
    assert update == [0.0, 0.0, 1.0]
    fresh, _ = play(FoolsGold(), {"a": [0.0, 1.0, 0.0], "b": [1.0, 0.0, 0.0], "c": [0.0, 0.0, 1.0]})
    assert fresh == pytest.approx({"a": 1 / 3, "b": 1 / 3, "c": 1 / 3})


def test_absent_clients_keep_their_history_and_are_not_compared():
    defense = FoolsGold()
    play(defense, {"a": [5.0, 0.0], "b": [0.0, 5.0]})
    weights, _ = play(defense, {"b": [1.0, 0.0], "c": [1.0, 0.0]})
    # b's sum is (1, 5), c's is (1, 0): hardly alike, though this round's updates are equal.
    assert weights == {"b": 0.5, "c": 0.5}
    # a's sum becomes (5, 1) and c's (2, 0): nearly the same direction, so b is trusted most.
    weights, _ = play(defense, {"a": [0.0, 1.0], "b": [0.0, 0.0], "c": [1.0, 0.0]})
    assert weights["b"] > max(weights["a"], weights["c"])


def test_instances_share_nothing():
    first, second = FoolsGold(), FoolsGold()
    play(first, {"a": [1.0, 0.0], "b": [0.0, 1.0]})
    assert play(second, {"a": [0.0, 1.0], "b": [1.0, 0.0]})[0] == {"a": 0.5, "b": 0.5}


def test_the_history_is_a_copy():
    defense = FoolsGold()
    updates, context = one_round([[1.0, 0.0], [0.0, 1.0]])
    defense.aggregate(updates, context)
    defense.aggregate(updates, context)
    assert updates.matrix.tolist() == [[1.0, 0.0], [0.0, 1.0]]


def test_zero_updates_resemble_nothing():
    weights, update = play(FoolsGold(), {"a": [0.0, 0.0], "b": [0.0, 0.0], "c": [1.0, 0.0]})
    assert weights == pytest.approx({"a": 1 / 3, "b": 1 / 3, "c": 1 / 3})
    assert update == pytest.approx([1 / 3, 0.0])


@pytest.mark.parametrize("factor", [1.0, 3.0, 0.1])
def test_where_all_point_the_same_way_nobody_is_trusted(factor):
    direction = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    weights, update = play(FoolsGold(), {"a": direction.tolist(), "b": (direction * factor).tolist()})
    assert weights == {"a": 0, "b": 0}
    assert not any(update)


def test_sums_stop_at_the_largest_float():
    defense = FoolsGold()
    for _ in range(3):
        weights, update = play(defense, {"a": [3e38, 0.0], "b": [0.0, 3e38]})
    assert weights == {"a": 0.5, "b": 0.5}
    assert update == pytest.approx([1.5e38, 1.5e38])
