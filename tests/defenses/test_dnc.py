"""Divide-and-Conquer: the f updates that reach furthest along the main direction are dropped."""

from __future__ import annotations

import pytest
import torch

from .rounds import accepts, identity, refusal


def test_the_published_vectors(aggregate, first_set, second_set):
    assert aggregate("dnc", first_set, 1).update.tolist() == pytest.approx([1.166667, 0.833333, 2.0], abs=6e-6)
    expected = [0.35759, 0.31737, 0.264, 0.23789]
    assert aggregate("dnc", second_set, 2).update.tolist() == pytest.approx(expected, abs=6e-6)


def test_the_honest_clients_are_kept(aggregate, second_set):
    assert aggregate("dnc", second_set, 2).weights.tolist() == pytest.approx([1 / 7] * 7 + [0, 0])


def test_needs_more_than_f_updates():
    assert "n > f" in refusal("dnc", 3, 3)
    assert accepts("dnc", 4, 3)


@pytest.mark.parametrize(("participants", "malicious", "other"), [(10, 0, "trimmed_mean"), (10, 1, None)])
def test_identities_are_named(participants, malicious, other):
    assert identity("dnc", participants, malicious) == other


def test_ties_go_to_the_earlier_client(aggregate):
    assert aggregate("dnc", [[1.0], [-1.0]], 1).weights.tolist() == [1, 0]


def test_the_coordinates_are_sampled_from_the_rules_own_stream(aggregate):
    """A client that differs from the others in 5 of 60,000 coordinates is dropped only if they are drawn."""
    matrix = torch.randn(6, 60_000, generator=torch.Generator().manual_seed(0)) * 1e-3
    matrix[3, ::12_000] = 100.0
    dropped = [aggregate("dnc", matrix, 1, seed=seed).weights.argmin().item() for seed in range(12)]
    assert dropped == [aggregate("dnc", matrix, 1, seed=seed).weights.argmin().item() for seed in range(12)]
    assert {3} < set(dropped)
