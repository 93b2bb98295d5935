"""Rules against a few plain lines of Python on random updates, for odd and even numbers of clients."""

from __future__ import annotations

import itertools
import math
import statistics

import numpy as np
import pytest
import torch

from benchmark.errors import NotApplicableError
from defenses.base import defenses

DIMENSION = 300


def naive_krum(rows, neighbours, count):
    scores = []
    for i, x in enumerate(rows):
        distances = sorted(float(((x - y) ** 2).sum()) for j, y in enumerate(rows) if j != i)
        scores.append((sum(distances[:neighbours]), i))
    kept = [i for _, i in sorted(scores)[:count]]
    return rows[kept].mean(axis=0)


def naive_dnc(rows, malicious):
    centred = rows - rows.mean(axis=0)
    direction = np.linalg.svd(centred)[2][0]
    order = np.argsort((centred @ direction) ** 2, kind="stable")
    return rows[order[: len(rows) - malicious]].mean(axis=0)


def naive_foolsgold(rows):
    n = len(rows)
    cosine = [
        [float(x @ y / math.sqrt(x @ x) / math.sqrt(y @ y)) if i != j else 0.0 for j, y in enumerate(rows)]
        for i, x in enumerate(rows)
    ]
    largest = [max(row) for row in cosine]
    for i, j in itertools.permutations(range(n), 2):
        if largest[i] < largest[j]:
            cosine[i][j] *= largest[i] / largest[j]
    trust = [min(1.0, max(0.0, 1 - max(row))) for row in cosine]
    trust = [value / max(trust) for value in trust]
    trust = [0.99 if value == 1 else value for value in trust]
    trust = np.array([min(1.0, max(0.0, math.log(v / (1 - v)) + 0.5)) if v else 0.0 for v in trust])
    return trust @ rows / trust.sum()


def naive_residual(rows):
    n, dimension = rows.shape
    hat = [1 / n + (r - (n - 1) / 2) ** 2 / sum((s - (n - 1) / 2) ** 2 for s in range(n)) for r in range(n)]
    corrected, score = rows.copy(), np.zeros(n)
    for k in range(dimension):
        y = rows[:, k]
        order = sorted(range(n), key=lambda i: (y[i], i))
        z = [y[i] for i in order]
        slope = statistics.median(
            statistics.median((z[i] - z[j]) / (i - j) for j in range(n) if j != i) for i in range(n)
        )
        intercept = statistics.median(z) - slope * (n - 1) / 2
        fitted = [intercept + slope * r for r in range(n)]
        off = [z[r] - fitted[r] for r in range(n)]
        scale = 1.4826 * (1 + 5 / (n - 1)) * statistics.median(sorted(map(abs, off))[1:]) + 1e-7
        confidence = np.ones(n)
        for r in range(n):
            h, e = math.sqrt(1 - hat[r]), off[r] / scale
            band = 2 * math.sqrt(2 / n)
            if e != 0:
                confidence[order[r]] = h / e * min(band, max(-band, e / h))
            if confidence[order[r]] < 0.1:
                corrected[order[r], k] = fitted[r]
        score += confidence * confidence.std(ddof=1)
    weights = (score / score.max()) ** 2
    return weights / weights.sum() @ corrected


def naive_geometric_median(rows):
    n = len(rows)

    def objective(point):
        return sum(np.linalg.norm(row - point) for row in rows) / n

    point = rows.mean(axis=0)
    for _ in range(4):
        before = objective(point)
        inverse = np.array([1 / max(1e-5, np.linalg.norm(row - point)) for row in rows])
        point = inverse @ rows / inverse.sum()
        if abs(before - objective(point)) < 1e-6 * objective(point):
            break
    return point


def naive_bulyan(rows, f):
    left, chosen = list(range(len(rows))), []
    while len(chosen) < len(rows) - 2 * f:
        scores = []
        for i in left:
            distances = sorted(float(((rows[i] - rows[j]) ** 2).sum()) for j in left if j != i)
            scores.append((sum(distances[: max(1, len(left) - f - 2)]), sum(distances), i))
        chosen.append(min(scores)[-1])
        left.remove(chosen[-1])
    result = []
    for column in rows[chosen].T:
        middle = statistics.median(column)
        result.append(np.mean(sorted(column, key=lambda value: abs(value - middle))[: len(rows) - 4 * f]))
    return np.array(result)


def naive_mixing(rows, f):
    mixed = []
    for i, x in enumerate(rows):
        order = sorted(range(len(rows)), key=lambda j: (j != i, float(((x - rows[j]) ** 2).sum()), j))
        mixed.append(rows[order[: len(rows) - f]].mean(axis=0))
    return np.sort(mixed, axis=0)[f : len(rows) - f].mean(axis=0)


def naive_majority(vectors):
    """Return the first connected group of more than half, with edges added from the shortest on."""
    n = len(vectors)
    unit = vectors / np.linalg.norm(vectors, axis=1)[:, None]
    edges = sorted((1 - float(unit[i] @ unit[j]), i, j) for i, j in itertools.combinations(range(n), 2))
    groups = [{i} for i in range(n)]
    for _, i, j in edges:
        joined = {*next(g for g in groups if i in g), *next(g for g in groups if j in g)}
        groups = [g for g in groups if not g & joined] + [joined]
        if len(joined) > n / 2:
            return sorted(joined)
    return list(range(n))


def naive_lasa(rows):
    norms = np.linalg.norm(rows, axis=1)
    rows = rows * np.minimum(1, np.median(norms) / norms)[:, None]
    for row in rows:
        row[np.argsort(np.abs(row))[: len(row) - int(0.7 * len(row))]] = 0
    near = np.ones(len(rows), dtype=bool)
    for values in (np.linalg.norm(rows, axis=1), [np.sign(row).sum() / (row != 0).sum() for row in rows]):
        near &= np.abs(values - np.median(values)) < np.std(values)
    return rows[near].mean(axis=0) if near.any() else rows.mean(axis=0)


def noise(deviation):
    drawn = torch.randn(DIMENSION, generator=torch.Generator().manual_seed(0))
    return deviation * drawn.numpy().astype(np.float64)


def expected(rule, rows, f):
    n = len(rows)
    if rule == "geometric_median":
        return naive_geometric_median(rows)
    if rule == "bulyan":
        return naive_bulyan(rows, f)
    if rule == "nearest_neighbour_mixing":
        return naive_mixing(rows, f)
    if rule == "lasa":
        return naive_lasa(rows)
    if rule == "freqfed":
        # The low half of an orthonormal cosine transform, written as a matrix.
        size = rows.shape[1]
        steps = np.arange(size)
        basis = np.sqrt(2 / size) * np.cos(np.pi / size * np.outer(np.arange((size + 1) // 2), steps + 0.5))
        basis[0] /= math.sqrt(2)
        return rows[naive_majority(rows @ basis.T)].mean(axis=0)
    if rule in ("norm_clipping_noise", "centered_clipping", "flame"):
        norms = np.linalg.norm(rows, axis=1)
        bound = np.median(norms)
        clipped = rows * np.minimum(1, bound / norms)[:, None]
        if rule == "flame":
            return clipped[naive_majority(rows)].mean(axis=0) + noise(0.001 * bound)
        # Of equal shares: the noise of each update, averaged.
        return clipped.mean(axis=0) + (noise(bound * 0.002 / 3 / math.sqrt(n)) if rule == "norm_clipping_noise" else 0)
    if rule in ("fedavg", "median", "trimmed_mean"):
        cut = {"fedavg": 0, "median": (n - 1) // 2, "trimmed_mean": f}[rule]
        return np.sort(rows, axis=0)[cut : n - cut].mean(axis=0)
    if rule == "dnc":
        return naive_dnc(rows, f)
    if rule == "foolsgold":
        return naive_foolsgold(rows)
    if rule == "residual":
        return naive_residual(rows)
    if rule == "norm_clipping":
        norms = np.linalg.norm(rows, axis=1)
        return (rows * np.minimum(1, np.median(norms) / norms)[:, None]).mean(axis=0)
    neighbours = max(1, n - f - 2)
    return naive_krum(rows, neighbours, neighbours if rule == "multi_krum" else 1)


@pytest.mark.parametrize("rule", [
    "fedavg", "median", "trimmed_mean", "krum", "multi_krum", "krum_one_neighbour", "dnc", "foolsgold", "residual",
    "norm_clipping", "geometric_median", "centered_clipping", "bulyan", "nearest_neighbour_mixing",
    "norm_clipping_noise", "flame", "freqfed", "lasa",
])  # fmt: skip
@pytest.mark.parametrize("participants", range(1, 13))
def test_equals_the_plain_definition(aggregate, rule, participants):
    compared = 0
    for f in range(4):
        try:
            defenses.get(rule).create().check_shape(participants, f)
        except NotApplicableError:
            continue
        matrix = torch.randn(participants, DIMENSION, generator=torch.Generator().manual_seed(31 * participants + f))
        matrix[: min(f, participants // 3)] += 0.5
        result = aggregate(rule, matrix.tolist(), f)
        reference = expected(rule, matrix.numpy().astype(np.float64), f)
        np.testing.assert_allclose(result.update.numpy(), reference, atol=3e-6)
        compared += 1
    least = {"krum": 3, "multi_krum": 3, "krum_one_neighbour": 2, "foolsgold": 2, "residual": 3, "bulyan": 3, "lasa": 3}
    needs = least.get(rule, 1)
    assert (compared > 0) == (participants >= needs)


@pytest.mark.parametrize("rule", ["median", "trimmed_mean", "krum", "multi_krum", "residual", "foolsgold", "lasa",
                                  "geometric_median", "centered_clipping", "bulyan",
                                  "nearest_neighbour_mixing"])  # fmt: skip
def test_blocks_join_without_a_seam(aggregate, rule):
    """More columns than one block, not a multiple of it: the same as the definition on each part."""
    matrix = torch.randn(7, 70_001, generator=torch.Generator().manual_seed(5))
    matrix[0, ::3] += 4
    bound = 1 if rule == "bulyan" else 2
    result = aggregate(rule, matrix, bound)
    if rule == "residual":  # its weights depend on all columns, so only they can be checked without hours of Python
        halves = [aggregate(rule, part.clone(), 2) for part in matrix.split(35_001, dim=1)]
        assert result.weights.tolist() == pytest.approx(
            torch.stack([h.weights for h in halves]).mean(0).tolist(), abs=5e-3
        )
        np.testing.assert_allclose(result.update, torch.cat([h.update for h in halves]), atol=0.1)
    else:
        np.testing.assert_allclose(result.update, expected(rule, matrix.double().numpy(), bound), atol=3e-6)


@pytest.mark.parametrize("participants", range(1, 13))
def test_coordinate_wise_rules_are_bitwise_exact_where_one_or_two_values_remain(aggregate, participants):
    matrix = torch.randn(participants, DIMENSION, generator=torch.Generator().manual_seed(participants))
    ordered = matrix.sort(dim=0).values
    low, high = (participants - 1) // 2, participants // 2
    assert torch.equal(aggregate("median", matrix).update, (ordered[low] + ordered[high]) / 2)
    assert torch.equal(aggregate("trimmed_mean", matrix, low).update, (ordered[low] + ordered[high]) / 2)
