"""Every rule reproduces the vectors computed from published packages and author code."""

from __future__ import annotations

import pytest
import torch

from defenses._krum import krum_scores, lowest

HONEST = [1.166667, 0.833333, 2.0]
CASES = [
    ("fedavg", 1, [8.142857, -5.0, 6.0]),
    ("median", 1, [1.0, 1.0, 2.0]),
    ("trimmed_mean", 1, [1.4, 0.6, 2.2]),
    ("krum", 1, [1.0, 0.0, 2.0]),
    ("krum_one_neighbour", 1, [1.0, 0.0, 2.0]),
    ("dnc", 1, HONEST),
    ("median", 2, [0.8941, 0.0206, 0.8784, 0.0178]),
    ("trimmed_mean", 2, [0.64576, 0.01002, 0.55984, -0.11216]),
    ("krum", 2, [0.0, 0.7833, 0.9738, 0.4274]),
    ("multi_krum", 2, [0.44696, 0.16256, -0.03296, 0.00838]),
    ("dnc", 2, [0.35759, 0.31737, 0.264, 0.23789]),
    ("residual", 2, [0.45352, 0.21169, 0.32682, 0.16614]),
    ("foolsgold", 2, [-0.0555, -0.7162, -0.6835, 0.0178]),
]


@pytest.mark.parametrize(("rule", "which", "expected"), CASES)
def test_aggregates(aggregate, first_set, second_set, rule, which, expected):
    rows, malicious = (first_set, 1) if which == 1 else (second_set, 2)
    assert aggregate(rule, rows, malicious).update.tolist() == pytest.approx(expected, abs=6e-6)


def test_krum_scores_and_their_tie(first_set):
    scores = krum_scores(torch.tensor(first_set, dtype=torch.float32), 7 - 1 - 2)
    assert scores.tolist() == [10, 12, 16, 12, 18, 10, 19154]
    assert lowest(scores, 4).tolist() == [0, 5, 1, 3]


@pytest.mark.parametrize("neighbours", [5, 6])
def test_krum_score_order(second_set, neighbours):
    scores = krum_scores(torch.tensor(second_set, dtype=torch.float32), neighbours)
    assert lowest(scores, 9).tolist() == [0, 6, 5, 1, 2, 4, 3, 8, 7]


def test_multi_krum_keeps_the_four_lowest_of_the_first_set(aggregate, first_set):
    result = aggregate("multi_krum", first_set, 1)
    assert result.weights.tolist() == [0.25, 0.25, 0, 0.25, 0, 0.25, 0]
    assert result.update.tolist() == [1.25, 1.0, 1.5]


def test_residual_weights(aggregate, second_set):
    weights = aggregate("residual", second_set).weights.tolist()
    assert weights == pytest.approx([0.12826, *[0.14099] * 6, 0.01296, 0.01284], abs=6e-6)


def test_dnc_keeps_the_honest_clients(aggregate, second_set):
    assert aggregate("dnc", second_set, 2).weights.tolist() == pytest.approx([1 / 7] * 7 + [0, 0])


def test_foolsgold_trusts_a_single_client(aggregate, second_set):
    assert aggregate("foolsgold", second_set).weights.tolist() == [0, 0, 1, 0, 0, 0, 0, 0, 0]


def test_norm_clipping_by_hand(aggregate, first_set):
    rows = torch.tensor(first_set, dtype=torch.float64)
    norms = rows.norm(dim=1)
    bound = sorted(norms.tolist())[3]
    expected = (rows * (bound / norms).clamp(max=1)[:, None]).mean(dim=0)
    assert aggregate("norm_clipping", first_set).update.tolist() == pytest.approx(expected.tolist(), abs=1e-6)
