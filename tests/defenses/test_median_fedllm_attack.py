"""The median as the seed paper's released code runs it: of an even number of values the lower middle one."""

from __future__ import annotations

import numpy as np
import pytest

from .rounds import identity, rounds_with_outliers


@pytest.mark.parametrize("participants", [3, 4, 7, 10])
def test_equals_plain_loops(aggregate, participants):
    for f, rows in rounds_with_outliers(participants):
        result = aggregate("median_fedllm_attack", rows.tolist(), f)
        expected = np.sort(rows.numpy().astype(np.float64), axis=0)[(participants - 1) // 2]
        np.testing.assert_allclose(result.update.numpy(), expected, rtol=2e-5, atol=3e-6)


def test_the_published_vectors(aggregate, first_set, second_set):
    """The vectors were worked in float64 from the definition."""
    first = aggregate("median_fedllm_attack", first_set, 1).update.tolist()
    assert first == pytest.approx([1.0, 1.0, 2.0], abs=6e-6)
    second = aggregate("median_fedllm_attack", second_set, 2).update.tolist()
    assert second == pytest.approx([0.8941, 0.0206, 0.8784, 0.0178], abs=6e-6)


def test_of_four_values_the_second_is_taken(aggregate):
    rows = [[1.0, -8.0], [100.0, 4.0], [3.0, 2.0], [-50.0, 5.0]]
    assert aggregate("median_fedllm_attack", rows).update.tolist() == [1.0, 2.0]


@pytest.mark.parametrize(("participants", "malicious", "other"), [(3, 1, "median"), (4, 1, None)])
def test_identities_are_named(participants, malicious, other):
    assert identity("median_fedllm_attack", participants, malicious) == other
