"""FoolsGold on the current round alone: against plain loops, by hand, without a memory."""

from __future__ import annotations

import numpy as np
import pytest

from defenses._examples import one_round
from defenses.base import defenses

from .rounds import refusal, rounds_with_outliers


def plain_foolsgold(rows):
    n = len(rows)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosine = unit @ unit.T - np.eye(n)
    largest = cosine.max(axis=1)
    for i in range(n):
        for j in range(n):
            if i != j and largest[i] < largest[j]:
                cosine[i, j] *= largest[i] / largest[j]
    trust = np.clip(1 - cosine.max(axis=1), 0, 1)
    trust /= trust.max()
    trust[trust == 1] = 0.99
    with np.errstate(divide="ignore"):
        trust = np.clip(np.log(trust / (1 - trust)) + 0.5, 0, 1)
    kept = [trust[i] * rows[i] for i in range(n) if trust[i] != 0]
    return sum(kept) / len(kept)


@pytest.mark.parametrize("participants", [3, 4, 7, 10])
def test_equals_plain_loops(aggregate, participants):
    for f, rows in rounds_with_outliers(participants):
        result = aggregate("foolsgold_no_history", rows.tolist(), f)
        expected = plain_foolsgold(rows.numpy().astype(np.float64))
        np.testing.assert_allclose(result.update.numpy(), expected, rtol=2e-5, atol=3e-6)


def test_the_published_vector(aggregate, second_set):
    """The vector was worked in float64 from the definition."""
    expected = [-0.0555, -0.7162, -0.6835, 0.0178]
    assert aggregate("foolsgold_no_history", second_set, 2).update.tolist() == pytest.approx(expected, abs=6e-6)


def test_earlier_rounds_change_nothing():
    rule = defenses.get("foolsgold_no_history").create()
    alike = one_round([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0]])
    other = one_round([[1.0, 0.0], [0.0, 2.0], [-1.0, -1.0]])
    rule.aggregate(*alike)
    fresh = defenses.get("foolsgold_no_history").create()
    assert rule.aggregate(*other).update.tolist() == fresh.aggregate(*other).update.tolist()


def test_the_sum_is_divided_by_the_number_of_trusted_clients(aggregate):
    """All three clients are trusted fully, v_i = 1 for each, so the update is the mean."""
    result = aggregate("foolsgold_no_history", [[3.0, 0.0], [0.0, 3.0], [0.0, -3.0]])
    assert result.update.tolist() == pytest.approx([1.0, 0.0], abs=1e-6)


def test_copies_give_no_step(aggregate):
    result = aggregate("foolsgold_no_history", [[1.0, 2.0]] * 3)
    assert result.update.tolist() == [0, 0]
    assert result.weights.tolist() == [0, 0, 0]


def test_needs_2_updates():
    assert "n >= 2" in refusal("foolsgold_no_history", 1, 0)
