"""Residual-based reweighting (Fu et al. 2019)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from benchmark.errors import NotApplicableError
from benchmark.updates import Aggregate, RoundContext, Updates
from defenses._columns import FLOAT32, OrderStatistics, blocks, median_of, middle_ranks, weighted_sum
from defenses.base import Defense, Knowledge, Stage, register, selection

TUNING = 2.0
"""Fu et al.'s λ: width of the band, in leverage-corrected residuals, that keeps full confidence."""
THRESHOLD = 0.1
"""Confidences below it have their value replaced by the line's."""
_WORKING_SET = 2**20
"""Pairwise slopes held at once."""


@register(
    title="Residual-based reweighting",
    description=(
        "Sorts the clients' values in every coordinate, fits a straight line to them that a minority cannot tilt, and "
        "trusts each value by its distance from the line. A client's weight collects its confidences over all "
        "coordinates; values far off the line are moved onto it before the weighted average."
    ),
    paper="Fu et al. 2019, arXiv 1912.11464",
    stages=(Stage.AGGREGATE,),
    knowledge=Knowledge.NONE,
)
class Residual(Defense):
    r"""Aggregate to Σ W_i y'_i by iteratively reweighted least squares with a repeated-median line.

    In every coordinate, with y the n values, r their ranks 0 … n - 1 (ties by client id):

    1. Line: slope = median_i median_{j≠i} (y_i - y_j) / (r_i - r_j), intercept = median(y) - slope · (n - 1) / 2.
    2. e_i = (y_i - line_i) / τ, τ = 1.4826 · (1 + 5 / (n - 1)) · M + 1e-7, M = the median of the absolute residuals
       without the smallest one.
    3. h_i = √(1 - H_ii), H = X (XᵀX)⁻¹ Xᵀ, X = [1, r]; confidence c_i = min(1, λ √(2 / n) · h_i / \|e_i\|).
    4. y'_i = line_i where c_i < 0.1, else y_i.

    Over all coordinates W_i = Σ c_i · std(c), std the sample standard deviation of the coordinate's confidences; W is
    squared and normalised to sum 1. λ = 2; medians of even counts average the two middle values. If no coordinate
    distinguishes the clients (all W are 0) they count equally. Sample counts are ignored.

    Condition: n ≥ 3; one or two updates that are left after others were rejected lie on their line, so they are
    averaged. Works block by block, twice where values were moved, so that memory does not grow with d.
    Source: Fu et al. 2019, arXiv 1912.11464, applied to updates instead of whole models.

    The values 0, 1, 2, 9 have slope 1 and intercept 0, so only the last is off the line: τ = 1e-7 and c = 0 there,
    which moves it to 3 and leaves it without weight:

    >>> from defenses._examples import one_round
    >>> result = Residual().aggregate(*one_round([[0.0], [1.0], [2.0], [9.0]]))
    >>> [round(value, 4) for value in result.update.tolist() + result.weights.tolist()]
    [1.0, 0.3333, 0.3333, 0.3333, 0.0]
    """

    def check_shape(self, participants: int, declared_malicious: int) -> None:
        """Refuse n < 3.

        Raises:
            NotApplicableError: Two values always lie on a line.
        """
        del declared_malicious
        if participants < 3:
            raise NotApplicableError(
                f"residual needs n >= 3 updates a round, but n = {participants}; let more clients take part"
            )

    def aggregate(self, updates: Updates, context: RoundContext) -> Aggregate:
        """Return the weighted mean of the corrected updates with the client weights."""
        del context
        participants, dimension = updates.matrix.shape
        if participants < 3:
            weights = selection(torch.arange(participants), participants)
            return Aggregate(weighted_sum(updates.matrix, weights), weights)
        width = min(dimension, max(256, _WORKING_SET // participants**2))
        line = _RepeatedMedianLine(participants, width)
        scores = torch.zeros(participants, dtype=torch.float64)
        moved = torch.zeros(dimension, dtype=torch.bool)
        for columns in blocks(dimension, width):
            confidence, _ = line.fit(updates.matrix[:, columns].double())
            scores += (confidence * confidence.std(dim=0)).sum(dim=1)
            moved[columns] = (confidence < THRESHOLD).any(dim=0)
        weights = _normalised(scores)
        update = weighted_sum(updates.matrix, weights)
        for columns in blocks(dimension, width):
            chosen = moved[columns].nonzero().squeeze(1)
            if len(chosen):
                values = updates.matrix[:, columns][:, chosen].double()
                confidence, fitted = line.fit(values)
                corrected = weights @ torch.where(confidence < THRESHOLD, fitted, values)
                update[columns][chosen] = corrected.clamp_(FLOAT32.min, FLOAT32.max).float()
        return Aggregate(update, weights)


class _RepeatedMedianLine:
    """Steps 1 to 3 for blocks of at most ``width`` columns and ``count`` clients."""

    def __init__(self, count: int, width: int) -> None:
        ranks = torch.arange(count, dtype=torch.float64)
        centred = ranks - (count - 1) / 2
        leverage = 1 / count + centred.square() / centred.square().sum()
        self._count = count
        self._centred = centred[:, None]
        self._band = (TUNING * math.sqrt(2 / count) * (1 - leverage).sqrt())[:, None]
        self._inner = OrderStatistics(count - 1, middle_ranks(count - 1), width, torch.float64)
        self._outer = OrderStatistics(count, middle_ranks(count), width, torch.float64)
        without_smallest = [1 + rank for rank in middle_ranks(count - 1)]
        self._spread = OrderStatistics(count, without_smallest, width, torch.float64)

    def fit(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return the confidences and the line's values, each ``[n, w]`` like the float64 ``values``, by client."""
        ordered, clients = values.sort(dim=0, stable=True)
        slope = self._slope(ordered)
        middle = ordered[list(middle_ranks(self._count))].mean(dim=0)
        fitted = middle + slope * self._centred
        residuals = (ordered - fitted).abs_()
        spread = median_of(self._spread, residuals.unbind())
        scale = 1.4826 * (1 + 5 / (self._count - 1)) * spread + 1e-7
        confidence = (self._band * scale / residuals).clamp_(max=1)
        return _by_client(confidence, clients), _by_client(fitted, clients)

    def _slope(self, ordered: Tensor) -> Tensor:
        """Return the repeated median of the slopes between the sorted rows ``[n, w]``, as ``[w]``."""
        lags = [(ordered[lag:] - ordered[:-lag]).div_(lag) for lag in range(1, self._count)]
        slopes = [
            [lags[abs(this - other) - 1][min(this, other)] for other in range(self._count) if other != this]
            for this in range(self._count)
        ]
        return median_of(self._outer, [median_of(self._inner, rows) for rows in slopes])


def _by_client(by_rank: Tensor, clients: Tensor) -> Tensor:
    return torch.empty_like(by_rank).scatter_(0, clients, by_rank)


def _normalised(scores: Tensor) -> Tensor:
    """Return squared scores that sum to 1; equal weights if all ``scores`` are 0."""
    if not bool(scores.any()):
        return selection(torch.arange(len(scores)), len(scores))
    squared = (scores / scores.max()).square()
    return squared / squared.sum()
