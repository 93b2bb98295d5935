"""The residual rule as the seed paper's released code runs it: half the threshold, and the mean of three clients."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
import torch

from benchmark.errors import NotApplicableError
from defenses.base import defenses

from .rounds import identity, rounds_with_outliers


def plain_residual(rows, threshold):
    n, dimension = rows.shape
    ranks = np.arange(n)
    design = np.stack([np.ones(n), ranks], axis=1)
    hat = np.sqrt(1 - np.diag(design @ np.linalg.inv(design.T @ design) @ design.T))
    corrected, score = rows.copy(), np.zeros(n)
    for k in range(dimension):
        order = np.argsort(rows[:, k], kind="stable")
        z = rows[order, k]
        slope = statistics.median(
            statistics.median((z[i] - z[j]) / (i - j) for j in range(n) if j != i) for i in range(n)
        )
        line = statistics.median(z) - slope * (n - 1) / 2 + slope * ranks
        off = np.abs(z - line)
        scale = 1.4826 * (1 + 5 / (n - 1)) * statistics.median(sorted(off)[1:]) + 1e-7
        confidence = np.minimum(1, 2 * math.sqrt(2 / n) * hat * scale / np.maximum(off, 1e-300))
        by_client = np.empty(n)
        by_client[order] = confidence
        corrected[order, k] = np.where(confidence < threshold, line, z)
        score += by_client * by_client.std(ddof=1)
    # Of three values none is ever off the line far enough, so all clients count equally.
    weights = (score / score.max()) ** 2 if score.any() else np.ones(n)
    return weights / weights.sum() @ corrected


@pytest.mark.parametrize("participants", [3, 4, 7, 10])
def test_equals_plain_loops(aggregate, participants):
    for f, rows in rounds_with_outliers(participants):
        result = aggregate("residual_fedllm_attack", rows.tolist(), f)
        expected = plain_residual(rows.numpy().astype(np.float64), 0.05)
        np.testing.assert_allclose(result.update.numpy(), expected, rtol=2e-5, atol=3e-6)


def test_the_published_vector(aggregate, second_set):
    """The vector is that of the package from which the published tables came."""
    expected = [0.45352, 0.21169, 0.32682, 0.16614]
    assert aggregate("residual_fedllm_attack", second_set, 2).update.tolist() == pytest.approx(expected, abs=6e-6)


def test_the_threshold_is_half_the_original():
    thresholds = [defenses.get(name).target.threshold for name in ("residual_fedllm_attack", "residual")]
    assert thresholds == [0.05, 0.1]


def test_needs_3_updates():
    with pytest.raises(NotApplicableError, match="n >= 3"):
        defenses.get("residual_fedllm_attack").create().check_shape(2, 0)


def test_of_three_clients_the_rule_is_the_mean(aggregate):
    """The row of the published tables is FedAvg's, up to the rounding that decided its weights."""
    rows = torch.randn(3, 5000, generator=torch.Generator().manual_seed(1)) * torch.tensor([[1.0], [1.0], [1000.0]])
    result = aggregate("residual_fedllm_attack", rows, 1)
    torch.testing.assert_close(result.update, rows.mean(dim=0), rtol=1e-5, atol=1e-4)
    assert result.weights.tolist() == pytest.approx([1 / 3] * 3)


@pytest.mark.parametrize(("participants", "malicious", "other"), [(3, 1, "fedavg"), (4, 1, None)])
def test_identities_are_named(participants, malicious, other):
    assert identity("residual_fedllm_attack", participants, malicious) == other
