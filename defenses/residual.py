"""Residual-based reweighting (Fu et al. 2019)."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from benchmark.errors import NotApplicableError
from benchmark.updates import Aggregate, RoundContext, Updates
from defenses._columns import FLOAT32, OrderStatistics, blocks, median_of, middle_ranks, weighted_sum
from defenses.base import Defense, Knowledge, Stage, register, selection

TUNING = 2.0
"""Fu et al.'s λ: width of the band, in leverage-corrected residuals, that keeps full confidence."""
_WORKING_SET = 16_384
"""Values in a block of columns, which with their slopes fill the cache."""
_MAX_WIDTH = 2_048
"""Columns in a block; from here on torch splits even a square root over threads, which costs more than it gains."""


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

    threshold: ClassVar[float] = 0.1
    """Confidences below it have their value replaced by the line's."""

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

    def degenerate_as(self, participants: int, declared_malicious: int) -> str | None:
        """Return ``"fedavg"`` for three clients that report equal counts.

        No residual of three values exceeds twice the mean of the two largest, which is within the band of full
        confidence: every confidence is 1, so nothing is moved and nobody is distinguished.
        """
        del declared_malicious
        return "fedavg" if participants == 3 else None

    def aggregate(self, updates: Updates, context: RoundContext) -> Aggregate:
        """Return the weighted mean of the corrected updates with the client weights."""
        del context
        participants, dimension = updates.matrix.shape
        if participants < 3:
            weights = selection(torch.arange(participants), participants)
            return Aggregate(weighted_sum(updates.matrix, weights), weights)
        width = min(dimension, _MAX_WIDTH, max(256, _WORKING_SET // participants))
        line = _RepeatedMedianLine(participants, width)
        scores = torch.zeros(participants, dtype=torch.float64)
        moved = torch.zeros(dimension, dtype=torch.bool)
        for columns in blocks(dimension, width):
            confidence, _ = line.fit(updates.matrix[:, columns].double())
            scores += confidence @ _deviation(confidence)
            torch.any(confidence < self.threshold, dim=0, out=moved[columns])
        weights = _normalised(scores)
        update = weighted_sum(updates.matrix, weights)
        for columns in blocks(dimension):
            for chosen in torch.split(moved[columns].nonzero().squeeze(1), width):
                values = updates.matrix[:, columns].index_select(1, chosen).double()
                confidence, fitted = line.fit(values)
                corrected = weights @ torch.where(confidence < self.threshold, fitted, values)
                update[columns].index_copy_(0, chosen, corrected.clamp_(FLOAT32.min, FLOAT32.max).float())
        return Aggregate(update, weights)


def _deviation(confidence: Tensor) -> Tensor:
    """Return the sample standard deviation ``[w]`` of each column of ``confidence`` (``[n, w]``)."""
    squares = (confidence - confidence.mean(dim=0)).square_().sum(dim=0)
    return squares.div_(len(confidence) - 1).sqrt_()


class _RepeatedMedianLine:
    """Steps 1 to 3 for blocks of at most ``width`` columns and ``count`` clients."""

    def __init__(self, count: int, width: int) -> None:
        self._count = count
        self._middle_rank = (count - 1) / 2
        self._rank_spread = count * (count * count - 1) / 12
        self._slopes = torch.empty(count - 1, count * width, dtype=torch.float64)
        self._sorted = OrderStatistics(count, range(count), width, torch.float64)
        self._inner = OrderStatistics(count - 1, middle_ranks(count - 1), count * width, torch.float64)
        self._outer = OrderStatistics(count, middle_ranks(count), width, torch.float64)
        without_smallest = [1 + rank for rank in middle_ranks(count - 1)]
        self._residual = OrderStatistics(count, without_smallest, width, torch.float64)

    def fit(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return the confidences and the line's values, each ``[n, w]`` like the float64 ``values``."""
        ordered = torch.stack(self._sorted.of(values.unbind()))
        ranks = _ranks(values).sub_(self._middle_rank)
        middle = (ordered[(self._count - 1) // 2] + ordered[self._count // 2]).mul_(0.5)
        fitted = (ranks * self._slope(ordered)).add_(middle)
        residuals = (values - fitted).abs_()
        spread = median_of(self._residual, residuals.unbind())
        scale = spread.mul_(1.4826 * (1 + 5 / (self._count - 1))).add_(1e-7)
        not_leverage = ranks.square_().div_(-self._rank_spread).add_(1 - 1 / self._count)
        # Unlike the square root its reciprocal is not split over threads at this size, see _MAX_WIDTH.
        band = not_leverage.rsqrt().mul_(not_leverage).mul_(TUNING * math.sqrt(2 / self._count))
        return band.mul_(scale).div_(residuals).clamp_(max=1), fitted

    def _slope(self, ordered: Tensor) -> Tensor:
        """Return the repeated median of the slopes between the sorted rows ``[n, w]``, as ``[w]``."""
        count, width = ordered.shape
        # Row i of the k-th block is the slope between the values of rank i and (i + k) mod n, so that the blocks'
        # element-wise median is the inner median of all i at once.
        slopes = self._slopes[:, : count * width]
        for lag, block in enumerate(slopes.view(count - 1, count, width), start=1):
            torch.sub(ordered[lag:], ordered[:-lag], out=block[:-lag]).div_(lag)
            torch.sub(ordered[-lag:], ordered[:lag], out=block[-lag:]).div_(count - lag)
        return median_of(self._outer, median_of(self._inner, slopes.unbind()).view(count, width).unbind())


def _ranks(values: Tensor) -> Tensor:
    """Return the 0-based rank of each entry in its column of ``values`` (``[n, w]``); equal values rank by row."""
    count = len(values)
    ranks = torch.arange(count - 1, -1, -1, dtype=values.dtype)[:, None].repeat(1, values.shape[1])
    for lag in range(1, count):
        in_order = values[:-lag] <= values[lag:]
        ranks[lag:] += in_order
        ranks[:-lag] -= in_order.to(values.dtype)
    return ranks


def _normalised(scores: Tensor) -> Tensor:
    """Return squared scores that sum to 1; equal weights if all ``scores`` are 0."""
    if not bool(scores.any()):
        return selection(torch.arange(len(scores)), len(scores))
    squared = (scores / scores.max()).square()
    return squared / squared.sum()
