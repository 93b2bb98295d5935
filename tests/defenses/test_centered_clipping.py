"""Centered clipping: steps from the last aggregate, with the round's median distance as radius."""

from __future__ import annotations

import pytest
import torch

from benchmark.interop.byzfl import bridged_entry
from benchmark.suites.suite import find_suite
from defenses._clipping import distances_to
from defenses._examples import one_round
from defenses.centered_clipping import CenteredClipping, clipped_step
from defenses.norm_clipping import NormClipping

from .rounds import LARGEST, accepts, identity, rounds_with_outliers


def step(rows, center, radius):
    matrix = torch.as_tensor(rows, dtype=torch.float32)
    distances = distances_to(matrix, center)
    return clipped_step(matrix, center, distances, torch.tensor(radius, dtype=torch.float64))


def test_the_published_vectors_at_a_fixed_radius(first_set):
    center = torch.zeros(3)
    assert step(first_set, center, 1.0).tolist() == pytest.approx([0.490886, 0.200401, 0.678813], abs=1e-6)
    for _ in range(3):
        center = step(first_set, center, 10.0)
    assert center.tolist() == pytest.approx([2.330606, -0.143223, 2.664953], abs=1e-5)


@pytest.mark.parametrize("radius", [0.5, 5.0, 100.0])
def test_equals_byzfl_at_a_fixed_radius_over_rounds(radius):
    byzfl = bridged_entry(f"byzfl:CenteredClipping(tau={radius})").create()
    center = torch.zeros(200)
    for _, rows in rounds_with_outliers(7):
        center = step(rows, center, radius)
        torch.testing.assert_close(center, byzfl.aggregate(*one_round(rows)).update, rtol=1e-4, atol=1e-5)


def test_the_center_is_the_aggregate_of_the_round_before():
    defense = CenteredClipping()
    center = torch.zeros(200)
    for _, rows in rounds_with_outliers(7):
        radius = float((rows - center).double().norm(dim=1).median())
        expected = step(rows, center, radius)
        center = defense.aggregate(*one_round(rows)).update
        torch.testing.assert_close(center, expected, rtol=1e-5, atol=1e-6)


def test_the_center_is_a_copy():
    defense = CenteredClipping()
    line = one_round([[1.0], [2.0], [6.0]])
    defense.aggregate(*line).update.fill_(1000)
    assert float(defense.aggregate(*line).update) == pytest.approx(16 / 9)


def test_the_first_round_is_norm_clipping_at_equal_counts_and_the_second_is_not():
    defense, other = CenteredClipping(), NormClipping()
    (_, first), (_, second), *_ = rounds_with_outliers(7)
    updates, expected = (rule.aggregate(*one_round(first)).update for rule in (defense, other))
    torch.testing.assert_close(updates, expected, rtol=1e-5, atol=1e-6)
    updates, expected = (rule.aggregate(*one_round(second)).update for rule in (defense, other))
    assert not torch.allclose(updates, expected, rtol=1e-2)


def test_a_suite_of_one_round_leaves_the_rule_out():
    suite = find_suite("pocket")
    assert suite.training.rounds == 1
    assert "the same function as norm_clipping" in suite.unscored["centered_clipping"]


def test_instances_share_nothing():
    line = one_round([[1.0], [2.0], [6.0]])
    CenteredClipping().aggregate(*line)
    assert float(CenteredClipping().aggregate(*line).update) == pytest.approx(5 / 3)


def test_repeated_rounds_come_close_to_the_honest_clients():
    defense = CenteredClipping()
    rows = torch.full((7, 3), 1.0)
    rows += 0.01 * torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    rows[:2] = LARGEST
    for _ in range(20):
        update = defense.aggregate(*one_round(rows)).update
    assert update.tolist() == pytest.approx([1.0] * 3, abs=0.05)


def test_one_update_is_enough():
    assert accepts("centered_clipping", 1, 9)


@pytest.mark.parametrize(("participants", "other"), [(1, "fedavg"), (2, None)])
def test_identities_are_named(participants, other):
    assert identity("centered_clipping", participants, 0) == other
