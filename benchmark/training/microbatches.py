"""Division of a training step of many clients into passes with little padding that fit into memory.

Stacked layers need equally many rows of every client in a pass. Rows are sorted by length inside each client, so that a
block of clients and ranks has rows of about one length. Starting from the block of all rows, a block is halved if that
saves work or if the block does not fit. Each client's gradient is the sum over its passes, so the division changes
results by rounding only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

Need = Callable[[int, int], int]
"""Function of rows and width: the bytes that a pass over them needs."""

_SHORT = 128
"""Rows below this length are not divided to save padding, because a further pass costs more than that saves."""

_PASS = 256
"""Cost of a pass in padded tokens: a further pass must save more than these."""


@dataclass(frozen=True)
class MicroBatch:
    """Rows that go through the model together.

    Attributes:
        clients: Indices of the clients, ascending.
        rows: For each client the indices of its rows, ascending; equally many for all clients.
    """

    clients: tuple[int, ...]
    rows: tuple[tuple[int, ...], ...]


def divide(lengths: Sequence[Sequence[int]], need: Need | None = None, limit: int | None = None) -> list[MicroBatch]:
    """Return the passes of a step, which hold every row once.

    Args:
        lengths: ``lengths[client][row]``, in tokens, with equally many rows for every client.
        need: Bytes of a pass; called only if there is a limit.
        limit: Bytes that a pass may need. A single row that needs more is a pass of its own, which the device may
            still hold.
    """
    longest = max(map(max, lengths))
    if limit is None and longest < _SHORT:
        return [MicroBatch(tuple(range(len(lengths))), tuple(tuple(range(len(widths))) for widths in lengths))]
    order = [sorted(range(len(widths)), key=lambda row, w=widths: -w[row]) for widths in lengths]  # type: ignore[misc]
    ranked = [[widths[row] for row in ranks] for widths, ranks in zip(lengths, order, strict=True)]
    grid = _Grid(ranked, need, limit)
    blocks = grid.halved(_Block(tuple(range(len(lengths))), 0, len(order[0])))
    return [
        MicroBatch(
            tuple(sorted(block.clients)),
            tuple(tuple(sorted(order[client][block.first : block.last])) for client in sorted(block.clients)),
        )
        for block in blocks
    ]


@dataclass(frozen=True)
class _Block:
    """Some clients' rows of the ranks ``first`` to ``last - 1``, longest first."""

    clients: tuple[int, ...]
    first: int
    last: int

    @property
    def size(self) -> int:
        return len(self.clients) * (self.last - self.first)


class _Grid:
    def __init__(self, ranked: list[list[int]], need: Need | None, limit: int | None) -> None:
        self._ranked, self._need, self._limit = ranked, need, limit

    def halved(self, block: _Block) -> list[_Block]:
        """Return the block, or its parts where they cost less."""
        halves = min(self._halves(block), key=self._cost_of_both, default=None)
        too_large = self._passes(block) > 1
        long = self._width(block) >= _SHORT and halves is not None
        if halves is None or not (too_large or (long and sum(self._cost_of_both(halves)[:1]) < self._cost(block))):
            return [block]
        return [part for half in halves for part in self.halved(half)]

    def _halves(self, block: _Block) -> Iterator[tuple[_Block, _Block]]:
        by_length = sorted(block.clients, key=lambda client: (-self._ranked[client][block.first], client))
        for cut in range(1, len(by_length)):
            first, second = tuple(by_length[:cut]), tuple(by_length[cut:])
            yield _Block(first, block.first, block.last), _Block(second, block.first, block.last)
        for cut in range(block.first + 1, block.last):
            yield _Block(block.clients, block.first, cut), _Block(block.clients, cut, block.last)

    def _cost_of_both(self, halves: tuple[_Block, _Block]) -> tuple[int, int]:
        """Return the halves' cost, and their difference in size, which decides between equal costs."""
        first, second = halves
        return self._cost(first) + self._cost(second), abs(first.size - second.size)

    def _cost(self, block: _Block) -> int:
        return block.size * self._width(block) + _PASS * self._passes(block)

    def _passes(self, block: _Block) -> int:
        """Return a lower bound on the number of passes."""
        if self._need is None or self._limit is None:
            return 1
        return math.ceil(self._need(block.size, self._width(block)) / self._limit)

    def _width(self, block: _Block) -> int:
        return max(self._ranked[client][block.first] for client in block.clients)
