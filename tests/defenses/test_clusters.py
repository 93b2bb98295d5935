"""Cosine distances and the cluster of the majority."""

from __future__ import annotations

import math

import pytest
import torch

from defenses._clusters import cosine_distances, majority_cluster


def distances_of(rows):
    matrix = torch.as_tensor(rows, dtype=torch.float64)
    return cosine_distances(matrix @ matrix.T)


def at_degrees(*angles):
    return [[math.cos(math.radians(angle)), math.sin(math.radians(angle))] for angle in angles]


def test_distances_by_hand():
    distances = distances_of([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0], [5.0, 0.0]])
    assert distances.tolist() == [[0, 1, 2, 0], [1, 0, 1, 1], [2, 1, 0, 2], [0, 1, 2, 0]]


def test_a_zero_vector_is_at_a_right_angle_to_all():
    assert distances_of([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0]]).tolist() == [[0, 1, 1], [1, 0, 1], [1, 1, 0]]


def test_parallel_vectors_have_distance_zero_whatever_their_length():
    row = torch.randn(1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert not distances_of(torch.stack([row, row * 1e30, row / 3])).any()


def test_two_groups_give_the_larger_one():
    assert majority_cluster(distances_of(at_degrees(0, 90, 3, 95, 6))).tolist() == [0, 2, 4]


def test_the_group_ends_where_it_first_has_more_than_half():
    """The gaps 1, 2 and 3 degrees join four of seven; the rest, all nearer than 30 degrees, is left out."""
    assert majority_cluster(distances_of(at_degrees(0, 1, 3, 6, 16, 30, 60))).tolist() == [0, 1, 2, 3]


def test_neighbours_at_the_last_threshold_join_together():
    """Two pairs of one degree join over a gap of five degrees, so that four of six are kept."""
    assert majority_cluster(distances_of(at_degrees(0, 1, 6, 7, 40, 80))).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("participants", [1, 2, 3, 6])
def test_equal_vectors_are_all_kept(participants):
    assert majority_cluster(distances_of([[1.0, 2.0]] * participants)).tolist() == list(range(participants))


def test_two_clients_are_both_kept():
    assert majority_cluster(distances_of([[1.0, 0.0], [-1.0, 0.0]])).tolist() == [0, 1]


@pytest.mark.parametrize("participants", [2, 3, 4, 7, 10, 25])
def test_it_is_the_cluster_of_scikit_learns_hdbscan(participants):
    """In scikit-learn min_samples counts the point itself, so 2 stands for one neighbour."""
    hdbscan = pytest.importorskip("sklearn.cluster").HDBSCAN
    size = participants // 2 + 1
    for seed in range(30):
        rows = torch.randn(participants, 4, generator=torch.Generator().manual_seed(seed))
        # Some clients send the same, and some of them form a second group.
        rows[: participants // 4] = rows[0]
        rows[-(participants // 3) :] += 2
        distances = distances_of(rows)
        options = {"metric": "precomputed", "min_cluster_size": size, "allow_single_cluster": True, "copy": True}
        labels = hdbscan(min_samples=2, **options).fit(distances.numpy()).labels_
        assert majority_cluster(distances).tolist() == (labels == 0).nonzero()[0].tolist()


def test_many_clients_need_few_steps():
    angles = torch.randperm(301, generator=torch.Generator().manual_seed(0)).tolist()
    kept = majority_cluster(distances_of(at_degrees(*(angle * angle / 1000 for angle in angles))))
    assert sorted(angles[index] for index in kept.tolist()) == list(range(151))


@pytest.mark.parametrize("participants", [3, 4, 7, 10])
def test_more_than_half_are_kept(participants):
    for seed in range(20):
        rows = torch.randn(participants, 5, generator=torch.Generator().manual_seed(seed))
        assert 2 * len(majority_cluster(distances_of(rows))) > participants


def test_the_order_of_clients_does_not_matter():
    rows = torch.randn(9, 5, generator=torch.Generator().manual_seed(1))
    order = torch.randperm(9, generator=torch.Generator().manual_seed(2))
    kept = majority_cluster(distances_of(rows[order]))
    assert sorted(order[kept].tolist()) == majority_cluster(distances_of(rows)).tolist()
