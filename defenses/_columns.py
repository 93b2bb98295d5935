"""Shared numerics of rules that combine clients coordinate by coordinate, in blocks that stay in the cache.

A block of :data:`BLOCK` columns is the largest that torch works through without waking a second thread, so it also
bounds the memory a rule needs beside the updates. Order statistics come from a sorting network: a fixed list of
``min``/``max`` pairs over whole rows of a block, without the comparators the wanted ranks do not depend on.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

BLOCK = 32_768
"""Columns per block."""

FLOAT32 = torch.finfo(torch.float32)


def blocks(dimension: int, width: int = BLOCK) -> Iterator[slice]:
    """Yield the consecutive column slices that cover ``dimension`` columns."""
    for start in range(0, dimension, width):
        yield slice(start, min(start + width, dimension))


def middle_ranks(count: int) -> tuple[int, ...]:
    """Return the 0-based rank of the median of ``count`` values, or the two middle ranks if ``count`` is even."""
    return (count // 2,) if count % 2 else (count // 2 - 1, count // 2)


def mean_of_ranks(matrix: Tensor, ranks: Sequence[int]) -> Tensor:
    """Return per column the mean of the order statistics ``ranks`` (0 is the smallest value).

    Args:
        matrix: Finite float32 tensor ``[n, d]``; left unchanged.
        ranks: Distinct ascending ranks below n.

    Returns:
        Float32 tensor ``[d]``. Each entry lies between the smallest and the largest value it averages.
    """
    count, dimension = matrix.shape
    result = torch.empty(dimension, dtype=matrix.dtype)
    statistics = OrderStatistics(count, ranks, min(BLOCK, dimension), matrix.dtype)
    for columns in blocks(dimension):
        _mean(statistics.of(matrix[:, columns].unbind()), out=result[columns])
    return result


def weighted_sum(matrix: Tensor, weights: Tensor) -> Tensor:
    """Return Σ weights_i · row_i without overflow on the way.

    Args:
        matrix: Finite float32 tensor ``[n, d]``; left unchanged.
        weights: Non-negative float64 tensor ``[n]`` with a sum of at most 1.

    Returns:
        Finite float32 tensor ``[d]``.
    """
    total = weights.to(matrix.dtype) @ matrix
    # Rows near the largest float can exceed it by rounding, and a row of norm 1e38 has a weight that float32 rounds
    # coarsely: both happen only to updates that were made to do harm, and then float64 does the work.
    coarse = bool(((weights > 0) & (weights < FLOAT32.tiny / FLOAT32.eps)).any())
    if coarse or not math.isfinite(float(total.sum())):
        for columns in blocks(matrix.shape[1]):
            exact = weights @ matrix[:, columns].double()
            total[columns] = exact.clamp_(FLOAT32.min, FLOAT32.max)
    return total


class OrderStatistics:
    """The ``ranks`` smallest-first values across ``count`` rows, column by column.

    Args:
        count: Number of rows.
        ranks: Wanted 0-based ranks.
        width: Largest number of columns in one call.
        dtype: Type of the rows.
    """

    def __init__(self, count: int, ranks: Sequence[int], width: int, dtype: torch.dtype) -> None:
        self._program = _compile(count, tuple(ranks))
        self._scratch = torch.empty(self._program.scratch, width, dtype=dtype)

    def of(self, rows: Sequence[Tensor]) -> list[Tensor]:
        """Return the wanted values in rank order, each of the rows' shape ``[w]``.

        The rows stay unchanged. The results live in this object's scratch space until its next call.
        """
        registers = [*rows, *self._scratch[:, : rows[0].shape[0]].unbind()]
        for step in self._program.steps:
            compare = torch.minimum if step.keeps_smaller else torch.maximum
            compare(registers[step.left], registers[step.right], out=registers[step.target])
        return [registers[index] for index in self._program.results]


def median_of(statistics: OrderStatistics, rows: Sequence[Tensor]) -> Tensor:
    """Return the mean of what ``statistics`` picks from float64 ``rows`` as a new tensor ``[w]``."""
    picked = statistics.of(rows)
    return picked[0].clone() if len(picked) == 1 else (picked[0] + picked[1]).mul_(0.5)


def _mean(values: Sequence[Tensor], out: Tensor) -> None:
    if len(values) == 1:
        out.copy_(values[0])
        return
    torch.add(values[0], values[1], out=out)
    for value in values[2:]:
        out.add_(value)
    out.div_(len(values))
    if not math.isfinite(float(out.sum())):
        out.copy_(torch.stack(list(values)).double().mean(dim=0))
    if len(values) > 2:
        torch.clamp(out, min=values[0], max=values[-1], out=out)


class _Step(NamedTuple):
    keeps_smaller: bool
    left: int
    right: int
    target: int


class _Program(NamedTuple):
    steps: tuple[_Step, ...]
    results: tuple[int, ...]
    scratch: int


@lru_cache
def _compile(count: int, ranks: tuple[int, ...]) -> _Program:
    """Turn the pruned network into min/max steps over registers: first the input rows, then scratch rows."""
    steps: list[_Step] = []
    holder = list(range(count))
    free: list[int] = []
    used = count

    def take(*operands: int) -> int:
        nonlocal used
        for operand in operands:
            if operand >= count:
                return operand
        if free:
            return free.pop()
        used += 1
        return used - 1

    for low, high, wants_low, wants_high in _prune(_odd_even_merge_sort(count), ranks):
        left, right = holder[low], holder[high]
        if wants_low and wants_high:
            # The smaller values go to a row that is neither operand, since the larger ones need both again.
            smaller = take()
            larger = take(left, right)
            steps += [_Step(True, left, right, smaller), _Step(False, left, right, larger)]
            holder[low], holder[high] = smaller, larger
            kept = {smaller, larger}
        else:
            target = take(left, right)
            steps.append(_Step(wants_low, left, right, target))
            holder[low if wants_low else high] = target
            kept = {target}
        free += [row for row in (left, right) if row >= count and row not in kept]
    return _Program(tuple(steps), tuple(holder[rank] for rank in ranks), used - count)


def _odd_even_merge_sort(count: int) -> list[tuple[int, int]]:
    """Return the comparators of Batcher's odd-even merge sort (Batcher 1968), smaller value to the first wire."""
    comparators = []
    merged = 1
    while merged < count:
        distance = merged
        while distance >= 1:
            for start in range(distance % merged, count - distance, 2 * distance):
                for low in range(start, start + min(distance, count - distance - start)):
                    if low // (2 * merged) == (low + distance) // (2 * merged):
                        comparators.append((low, low + distance))
            distance //= 2
        merged *= 2
    return comparators


def _prune(comparators: list[tuple[int, int]], ranks: Sequence[int]) -> list[tuple[int, int, bool, bool]]:
    """Drop what ``ranks`` do not depend on; the flags say which of a comparator's two outputs are needed."""
    needed = set(ranks)
    kept = []
    for low, high in reversed(comparators):
        if low in needed or high in needed:
            kept.append((low, high, low in needed, high in needed))
            needed |= {low, high}
    return kept[::-1]
