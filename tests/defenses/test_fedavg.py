"""FedAvg: the mean weighted by sample counts."""

from __future__ import annotations

import pytest

from .rounds import accepts


def test_the_published_vector(aggregate, first_set):
    assert aggregate("fedavg", first_set, 1).update.tolist() == pytest.approx([8.142857, -5.0, 6.0], abs=6e-6)


def test_sample_counts_are_the_weights(aggregate):
    result = aggregate("fedavg", [[2.0, 0.0], [4.0, 8.0], [0.0, -4.0]], counts=[1, 2, 5])
    assert result.weights.tolist() == [0.125, 0.25, 0.625]
    assert result.update.tolist() == [1.25, -0.5]


def test_one_update_is_enough():
    assert accepts("fedavg", 1, 9)
