"""LASA: clipped and sparsified updates, averaged per tensor over the clients near the median."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmark.updates import AdapterLayout
from defenses._examples import one_round
from defenses.lasa import Lasa, _thresholds

from .rounds import accepts, identity, refusal


def aggregate_in(sizes, rows):
    updates, context = one_round(rows)
    names = tuple(f"layer{index}.lora_A" for index in range(len(sizes)))
    layout = AdapterLayout(names, tuple((1, size) for size in sizes))
    return Lasa().aggregate(replace(updates, layout=layout), context)


def thresholds_of(matrix):
    return _thresholds(matrix, torch.empty(matrix.shape[1]))


def test_seventy_percent_of_each_clients_entries_are_kept():
    matrix = torch.randn(4, 1000, generator=torch.Generator().manual_seed(0))
    kept = matrix.abs() >= thresholds_of(matrix)[:, None]
    assert kept.sum(dim=1).tolist() == [700] * 4
    assert bool(matrix.abs()[0][kept[0]].min() > matrix.abs()[0][~kept[0]].max())


def test_the_share_is_of_the_whole_update_and_not_of_each_tensor():
    """The second tensor is so small that none of its entries are among the largest seven of ten."""
    rows = torch.tensor([[5.0, 6, 7, 8, 9, 10, 11, 1, 2, 3]] * 3)
    result = aggregate_in((7, 3), rows)
    assert result.update.tolist() == pytest.approx([5, 6, 7, 8, 9, 10, 11, 0, 0, 0])


def test_equal_entries_are_all_kept():
    assert aggregate_in((4,), torch.ones(3, 4)).update.tolist() == pytest.approx([1.0] * 4)


def test_a_client_with_another_balance_of_signs_is_left_out_by_hand():
    """Five clients of norm 2: the balances are 1, 1, 0, 1 and -1. The median is 1 and two are far."""
    rows = [[1.0, 1, 1, 1], [1, 1, 1, 1], [1, 1, -1, -1], [1, 1, 1, 1], [-1, -1, -1, -1]]
    norms = torch.tensor([1.0, 1.001, 1.0, 0.999, 1.0])[:, None]
    result = aggregate_in((4,), torch.tensor(rows) * norms)
    # The fourth client has the shortest update, and only its norm is far from the median 2 after clipping.
    assert result.weights.tolist() == pytest.approx([0.5, 0.5, 0, 0, 0])
    assert result.update.tolist() == pytest.approx([1.0] * 4)


def test_a_client_with_another_norm_in_a_tensor_is_left_out_of_that_tensor_alone():
    generator = torch.Generator().manual_seed(2)
    rows = torch.randn(9, 2000, generator=generator)
    quiet = rows.clone()
    quiet[4, :1000] *= 0.2
    result = aggregate_in((1000, 1000), quiet)
    plain = aggregate_in((1000, 1000), rows)
    assert 0 <= result.weights[4] <= 0.5 * (1 / 3)
    assert not torch.equal(result.update[:1000], plain.update[:1000])


def test_the_weights_are_those_of_the_tensors_in_proportion_to_their_sizes():
    matrix = torch.randn(7, 400, generator=torch.Generator().manual_seed(3))
    result = aggregate_in((100, 300), matrix)
    norms = matrix.norm(dim=1)
    clipped = matrix * (norms.median() / norms).clamp(max=1)[:, None]
    sparse = torch.where(clipped.abs() >= thresholds_of(clipped)[:, None], clipped, 0.0)
    expected = torch.zeros(7, dtype=torch.float64)
    for part, update in zip(sparse.split([100, 300], dim=1), result.update.split([100, 300]), strict=True):
        # The columns outnumber the clients, so that the weights of a tensor follow from its aggregate.
        weights = torch.linalg.lstsq(part.double().T, update.double()[:, None]).solution[:, 0]
        assert all(abs(float(w)) < 1e-5 or abs(float(w) - float(weights.max())) < 1e-5 for w in weights)
        expected += weights * part.shape[1] / 400
    torch.testing.assert_close(result.weights, expected, rtol=0, atol=1e-5)


def test_a_boosted_client_has_no_longer_a_larger_norm(aggregate):
    rows = torch.randn(7, 500, generator=torch.Generator().manual_seed(4))
    boosted = rows.clone()
    boosted[0] *= 1e6
    assert float(aggregate("lasa", boosted).update.norm()) < 2 * float(aggregate("lasa", rows).update.norm())


def test_needs_3_updates():
    assert "n >= 3" in refusal("lasa", 2, 0)
    assert accepts("lasa", 3, 9)
    assert identity("lasa", 3, 0) is None


@pytest.mark.parametrize("left", [1, 2])
def test_one_or_two_updates_that_are_left_all_count(aggregate, left):
    result = aggregate("lasa", torch.randn(left, 10, generator=torch.Generator().manual_seed(left)))
    assert result.weights.tolist() == pytest.approx([1 / left] * left)
