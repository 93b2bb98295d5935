"""The trimmed mean as the seed paper's released code runs it: one value is cut at each end, for any bound."""

from __future__ import annotations

import numpy as np
import pytest

from .rounds import identity, refusal, rounds_with_outliers


@pytest.mark.parametrize("participants", [3, 4, 7, 10])
def test_equals_plain_loops(aggregate, participants):
    for f, rows in rounds_with_outliers(participants):
        result = aggregate("trimmed_mean_fedllm_attack", rows.tolist(), f)
        expected = np.sort(rows.numpy().astype(np.float64), axis=0)[1:-1].mean(axis=0)
        np.testing.assert_allclose(result.update.numpy(), expected, rtol=2e-5, atol=3e-6)


def test_the_published_vector(aggregate, first_set):
    """The vector was worked in float64 from the definition."""
    result = aggregate("trimmed_mean_fedllm_attack", first_set, 1).update.tolist()
    assert result == pytest.approx([1.4, 0.6, 2.2], abs=6e-6)


def test_needs_3_updates():
    assert "n >= 3" in refusal("trimmed_mean_fedllm_attack", 2, 0)


@pytest.mark.parametrize(
    ("participants", "malicious", "other"),
    [(3, 1, "median"), (4, 2, "median"), (7, 1, "trimmed_mean"), (7, 2, None)],
)
def test_identities_are_named(participants, malicious, other):
    assert identity("trimmed_mean_fedllm_attack", participants, malicious) == other
