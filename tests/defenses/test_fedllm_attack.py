"""The rules as the seed paper's released code runs them: against plain loops, by hand, and beside the exact ones."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
import torch

from benchmark.errors import NotApplicableError
from defenses.base import defenses

RULES = {
    "krum_fedllm_attack": "krum",
    "foolsgold_no_history": "foolsgold",
    "residual_fedllm_attack": "residual",
    "median_fedllm_attack": "median",
    "trimmed_mean_fedllm_attack": "trimmed_mean",
}


def plain_krum(rows, f):
    distances = [[math.dist(x, y) for y in rows] for x in rows]
    count = len(rows) - f
    winner = min(range(len(rows)), key=lambda i: (sum(sorted(distances[i])[:count]), i))
    near = sorted(range(len(rows)), key=lambda j: (distances[winner][j], j))[:count]
    return rows[near].mean(axis=0)


def plain_foolsgold(rows):
    n = len(rows)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosine = unit @ unit.T - np.eye(n)
    largest = cosine.max(axis=1)
    for i in range(n):
        for j in range(n):
            if i != j and largest[i] < largest[j]:
                cosine[i, j] *= largest[i] / largest[j]
    trust = np.clip(1 - cosine.max(axis=1), 0, 1)
    trust /= trust.max()
    trust[trust == 1] = 0.99
    with np.errstate(divide="ignore"):
        trust = np.clip(np.log(trust / (1 - trust)) + 0.5, 0, 1)
    kept = [trust[i] * rows[i] for i in range(n) if trust[i] != 0]
    return sum(kept) / len(kept)


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
    # Of three values none is ever off the line far enough: nobody is told from the others, and all count equally.
    weights = (score / score.max()) ** 2 if score.any() else np.ones(n)
    return weights / weights.sum() @ corrected


def expected(rule, rows, f):
    if rule == "krum_fedllm_attack":
        return plain_krum(rows, f)
    if rule == "foolsgold_no_history":
        return plain_foolsgold(rows)
    if rule == "residual_fedllm_attack":
        return plain_residual(rows, 0.05)
    ordered = np.sort(rows, axis=0)
    return ordered[(len(rows) - 1) // 2] if rule == "median_fedllm_attack" else ordered[1:-1].mean(axis=0)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("participants", [3, 4, 7, 10])
def test_equals_plain_loops(aggregate, rule, participants):
    for f in range(participants // 2 + 1):
        rows = torch.randn(participants, 200, generator=torch.Generator().manual_seed(17 * participants + f))
        rows[:f] += 0.7
        rows[0, :20] *= 30
        result = aggregate(rule, rows.tolist(), f)
        np.testing.assert_allclose(
            result.update.numpy(), expected(rule, rows.numpy().astype(np.float64), f), rtol=2e-5, atol=3e-6
        )


@pytest.mark.parametrize("rule", RULES)
def test_the_published_vectors(aggregate, first_set, second_set, rule):
    """Worked in float64 from the definitions; the residual's is that of the package the tables came from."""
    first = {
        "krum_fedllm_attack": [1.166667, 0.833333, 2.0],
        "median_fedllm_attack": [1.0, 1.0, 2.0],
        "trimmed_mean_fedllm_attack": [1.4, 0.6, 2.2],
    }
    second = {
        "krum_fedllm_attack": [0.35759, 0.31737, 0.264, 0.23789],
        "foolsgold_no_history": [-0.0555, -0.7162, -0.6835, 0.0178],
        "residual_fedllm_attack": [0.45352, 0.21169, 0.32682, 0.16614],
        "median_fedllm_attack": [0.8941, 0.0206, 0.8784, 0.0178],
    }
    for rows, malicious, vectors in ((first_set, 1, first), (second_set, 2, second)):
        if rule in vectors:
            assert aggregate(rule, rows, malicious).update.tolist() == pytest.approx(vectors[rule], abs=6e-6)


@pytest.mark.parametrize("rule", RULES)
def test_they_differ_from_the_exact_rules_somewhere(aggregate, rule):
    rows = torch.randn(10, 60, generator=torch.Generator().manual_seed(3))
    # Far enough off the line that some values are moved at a threshold of 0.1 and left at 0.05.
    rows[0] *= 40
    if rule == "foolsgold_no_history":  # partial trust: two updates at 60 degrees and one at right angles to the first
        rows = torch.tensor([[1.0, 0.0], [0.5, 0.75**0.5], [0.0, -1.0]])
    ours, theirs = (aggregate(name, rows.tolist(), 3).update for name in (rule, RULES[rule]))
    assert not torch.allclose(ours, theirs)


def test_krum_averages_the_closest_pair_of_three(aggregate):
    result = aggregate("krum_fedllm_attack", [[0.0, 0.0], [3.0, 4.0], [3.0, 5.0]], 1)
    assert result.update.tolist() == [3.0, 4.5]
    assert result.weights.tolist() == [0, 0.5, 0.5]


def test_krum_counts_plain_distances(aggregate):
    """Squared, one neighbour at 10 outweighs a square of side 4 (100 against 64); plainly it does not (10 to 13.7)."""
    star = [[0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [10.0, 0.0]]
    square = [[100.0, 0.0], [104.0, 0.0], [100.0, 4.0], [104.0, 4.0]]
    sums = {
        power: [min(sum(sorted(math.dist(x, y) ** power for y in group)) for x in group) for group in (star, square)]
        for power in (1, 2)
    }
    assert sums[1][0] < sums[1][1]
    assert sums[2][0] > sums[2][1]
    result = aggregate("krum_fedllm_attack", star + square, 4)
    assert result.weights.tolist() == [0.25] * 4 + [0] * 4
    assert result.update.tolist() == [2.5, 0.0]


def test_foolsgold_remembers_nothing_and_divides_by_the_trusted(aggregate):
    rule = defenses.get("foolsgold_no_history").create()
    from defenses._examples import one_round

    alike = one_round([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0]])
    other = one_round([[1.0, 0.0], [0.0, 2.0], [-1.0, -1.0]])
    rule.aggregate(*alike)
    assert rule.aggregate(*other).update.tolist() == aggregate("foolsgold_no_history", other[0].matrix).update.tolist()
    # All three are trusted fully: the mean, as v_i = 1 for each.
    assert aggregate("foolsgold_no_history", [[3.0, 0.0], [0.0, 3.0], [0.0, -3.0]]).update.tolist() == pytest.approx(
        [1.0, 0.0], abs=1e-6
    )


def test_foolsgold_of_copies_is_no_step(aggregate):
    result = aggregate("foolsgold_no_history", [[1.0, 2.0]] * 3)
    assert result.update.tolist() == [0, 0]
    assert result.weights.tolist() == [0, 0, 0]


def test_the_residual_threshold_is_half_the_original(aggregate):
    thresholds = [defenses.get(name).target.threshold for name in ("residual_fedllm_attack", "residual")]
    assert thresholds == [0.05, 0.1]


SHAPES = [
    ("krum_fedllm_attack", 3, 3, "n > f"),
    ("foolsgold_no_history", 1, 0, "n >= 2"),
    ("residual_fedllm_attack", 2, 0, "n >= 3"),
    ("trimmed_mean_fedllm_attack", 2, 0, "n >= 3"),
]


@pytest.mark.parametrize(("rule", "participants", "malicious", "words"), SHAPES)
def test_conditions_are_stated(rule, participants, malicious, words):
    with pytest.raises(NotApplicableError, match=words):
        defenses.get(rule).create().check_shape(participants, malicious)


def test_of_three_clients_the_residual_rule_is_the_mean(aggregate):
    """So the row of the published tables is FedAvg's, up to the rounding that decided its weights."""
    rows = torch.randn(3, 5000, generator=torch.Generator().manual_seed(1)) * torch.tensor([[1.0], [1.0], [1000.0]])
    for rule in ("residual_fedllm_attack", "residual"):
        result = aggregate(rule, rows, 1)
        torch.testing.assert_close(result.update, rows.mean(dim=0), rtol=1e-5, atol=1e-4)
        assert result.weights.tolist() == pytest.approx([1 / 3] * 3)


@pytest.mark.parametrize(("rule", "participants", "malicious", "other"), [
    ("residual_fedllm_attack", 3, 1, "fedavg"), ("residual_fedllm_attack", 4, 1, None),
    ("krum_fedllm_attack", 3, 0, "trimmed_mean"), ("krum_fedllm_attack", 3, 1, None),
    ("median_fedllm_attack", 3, 1, "median"), ("median_fedllm_attack", 4, 1, None),
    ("trimmed_mean_fedllm_attack", 3, 1, "median"), ("trimmed_mean_fedllm_attack", 4, 2, "median"),
    ("trimmed_mean_fedllm_attack", 7, 1, "trimmed_mean"), ("trimmed_mean_fedllm_attack", 7, 2, None),
])  # fmt: skip
def test_where_they_are_another_rule(rule, participants, malicious, other):
    assert defenses.get(rule).create().degenerate_as(participants, malicious) == other


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("left", [1, 2])
def test_a_round_made_small_goes_on(aggregate, rule, left):
    rows = torch.tensor([[1.0, -1.0], [2.0, 3.0]])[:left]
    update = aggregate(rule, rows, 4).update
    assert bool(((update >= rows.amin(dim=0)) & (update <= rows.amax(dim=0))).all()) or rule == "foolsgold_no_history"
    assert bool(torch.isfinite(update).all())


@pytest.mark.parametrize("rule", RULES)
def test_every_one_is_a_variant_named_after_its_rule(rule):
    info = defenses.get(rule).info
    assert info.variant_of == RULES[rule]
    assert "2406.10630" in info.paper
    assert info.knowledge == ("declared_bound" if rule == "krum_fedllm_attack" else "none")
