"""Draws of rows from a pool, and the composition of clients' shards from shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from benchmark.errors import UsageError, unknown_name

Kept = npt.NDArray[np.bool_]
"""Mask of the rows of a pool that may be used."""


def draw(kept: Kept, count: int, rng: np.random.Generator) -> list[int]:
    """Return the indices of ``count`` kept rows in random order.

    Each row is drawn once if ``kept`` has enough rows. Otherwise rows repeat, and their counts differ by at most one.
    The order is a permutation of all rows, in which the first unused kept row replaces each row that is left out.
    Leaving out one more row therefore changes few other places.

    Args:
        kept: Mask of usable rows, at least one of which is true.
        count: Number of rows to draw.
        rng: Stream to draw from. If there are enough rows, the numbers read from it do not depend on ``kept``.
    """
    usable = int(kept.sum())
    drawn: list[int] = []
    while len(drawn) < count:
        order = rng.permutation(len(kept))
        size = min(count - len(drawn), usable)
        head, spare = order[:size], order[size:]
        gaps = ~kept[head]
        head[gaps] = spare[kept[spare]][: int(gaps.sum())]
        drawn += head.tolist()
    return drawn


def composition(
    count: int,
    refusal_share: float,
    shares: Mapping[str, float] | None,
    default: Mapping[str, float],
) -> tuple[dict[str, int], int]:
    """Return a client's number of normal rows of each pool, in the order of ``default``, and its number of refusals.

    Raises:
        UsageError: A share is out of range, all are 0, or a pool is unknown.
    """
    if not 0 <= refusal_share <= 1:
        raise UsageError(f"refusal_share is {refusal_share}; it must lie between 0 and 1")
    chosen = default if shares is None else shares
    for pool, share in chosen.items():
        if pool not in default:
            raise unknown_name("pool of honest clients", pool, default)
        if not 0 <= share < float("inf"):
            raise UsageError(f"the share of pool {pool!r} is {share}; shares must be finite and not negative")
    weights = [float(chosen.get(pool, 0)) for pool in default]
    if sum(weights) == 0:
        raise UsageError("all shares of pools are 0; at least one pool needs a positive share")
    refusals = round(refusal_share * count)
    return dict(zip(default, spread(count - refusals, weights), strict=True)), refusals


def spread(total: int, weights: Sequence[float]) -> list[int]:
    """Return whole numbers that sum to ``total`` and follow ``weights``, the largest remainders rounded up."""
    exact = np.asarray(weights) / sum(weights) * total
    whole = np.floor(exact).astype(int)
    for index in np.argsort(whole - exact, kind="stable")[: total - int(whole.sum())]:
        whole[index] += 1
    return [int(number) for number in whole]
