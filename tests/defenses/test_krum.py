"""Krum: the update with the smallest sum of squared distances to its n - f - 2 nearest neighbours."""

from __future__ import annotations

import pytest
import torch

from defenses._krum import krum_scores, lowest

from .rounds import accepts, identity, refusal


def test_the_published_vectors(aggregate, first_set, second_set):
    assert aggregate("krum", first_set, 1).update.tolist() == pytest.approx([1.0, 0.0, 2.0], abs=6e-6)
    expected = [0.0, 0.7833, 0.9738, 0.4274]
    assert aggregate("krum", second_set, 2).update.tolist() == pytest.approx(expected, abs=6e-6)


def test_scores_and_their_tie(first_set):
    scores = krum_scores(torch.tensor(first_set, dtype=torch.float32), 7 - 1 - 2)
    assert scores.tolist() == [10, 12, 16, 12, 18, 10, 19154]
    assert lowest(scores, 4).tolist() == [0, 5, 1, 3]


@pytest.mark.parametrize("neighbours", [5, 6])
def test_score_order(second_set, neighbours):
    scores = krum_scores(torch.tensor(second_set, dtype=torch.float32), neighbours)
    assert lowest(scores, 9).tolist() == [0, 6, 5, 1, 2, 4, 3, 8, 7]


def test_needs_2f_plus_3_updates():
    assert "2f + 3" in refusal("krum", 8, 3)
    assert "krum_one_neighbour" in refusal("krum", 3, 1)
    assert accepts("krum", 9, 3)


def test_no_shape_is_another_rule():
    assert identity("krum", 3, 0) is None


def test_ties_go_to_the_earlier_client(aggregate):
    square = [[0.0, 0.0], [1.0, 1.0], [0.0, 1.0], [1.0, 0.0], [0.5, 9.0]]
    assert aggregate("krum", square, 1).weights.tolist() == [1, 0, 0, 0, 0]


def test_equal_updates_tie_bitwise(aggregate):
    """Float rounding must not decide which of several copies wins."""
    matrix = torch.randn(9, 40_000, generator=torch.Generator().manual_seed(0))
    matrix[7] = matrix[4] = matrix[2]
    assert aggregate("krum", matrix, 3).weights.nonzero().tolist() == [[2]]
    assert aggregate("krum", 1000 + matrix, 3).weights.nonzero().tolist() == [[2]]


def test_small_differences_count_beside_a_boosted_client(aggregate):
    """A huge row or a large common part must not swallow the honest updates' distances."""
    matrix = torch.zeros(5, 3)
    matrix[:, 0] = torch.tensor([0.0, 1.0, 3.0, 9.0, 0.0])
    matrix[4] = 1e30
    expected = [0, 1, 0, 0, 0]
    assert aggregate("krum", matrix, 1).weights.tolist() == expected
    assert aggregate("krum", matrix * 1e-25, 1).weights.tolist() == expected
    matrix[:, 1] += 65536.0
    assert aggregate("krum", matrix, 1).weights.tolist() == expected


def test_differences_of_one_float_step_count_beside_a_large_common_part(aggregate):
    """Inner products of such rows agree in all digits, so only the differences themselves decide."""
    step = 2.0**-13  # the spacing of float32 between 1024 and 2048
    offsets = torch.tensor([[9.0], [0.0], [1.0], [3.0], [50.0]]) * step
    matrix = (1024.0 + 1000 * torch.rand(1, 5000, generator=torch.Generator().manual_seed(0))).repeat(5, 1)
    matrix[:, 7:8] += offsets
    assert aggregate("krum", matrix, 1).weights.tolist() == [0, 0, 1, 0, 0]
