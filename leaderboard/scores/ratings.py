"""Ratings: means over the answers that a judge rated, alone and as shares of its scale."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from leaderboard.scores.counts import GOOD, Counts, Floats, Stratum, scored_strata


def mean_ratings(counts: Counts, complete: Floats, sizes: Floats, strata: list[Stratum]) -> dict[str, Floats]:
    """Return the mean rating over all scored probes of the kinds that a judge rates, and their unrated share."""
    shape = counts.rated.shape[:2]
    rated, ratings, probes, whole = np.zeros(shape), np.zeros(shape), np.zeros(shape), np.ones(shape, dtype=bool)
    for kind in GOOD:
        scored = scored_strata(strata, kind, sizes)
        rates = counts.rated[..., scored].any(axis=-1)
        whole &= ~rates | complete[..., scored].all(axis=-1)
        rated += counts.rated[..., scored].sum(axis=-1)
        ratings += counts.ratings[..., scored].sum(axis=-1)
        probes += np.where(rates, sizes[scored].sum(), 0.0)
    usable = whole & (rated > 0)
    nothing = np.full(shape, np.nan)
    return {
        "rating": np.divide(ratings, rated, out=nothing.copy(), where=usable),
        "unrated": np.divide(probes - rated, probes, out=nothing.copy(), where=usable),
    }


def put_scaled(
    share: Floats,
    counts: Counts,
    complete: Floats,
    strata: list[Stratum],
    scales: Mapping[str, tuple[float, float]],
) -> None:
    """Write the mean rating of each rated utility stratum into ``share``, as a share of its judge's scale."""
    utility = np.array([stratum.kind == "utility" for stratum in strata])
    for position, judge in enumerate(counts.judges):
        if judge in scales:
            low, high = scales[judge]
            rated = counts.rated[:, position]
            mean = np.divide(counts.ratings[:, position], rated, out=np.full(rated.shape, np.nan), where=rated > 0)
            usable = utility & complete[:, position].astype(bool) & (rated > 0)
            share[:, position] = np.where(usable, (mean - low) / (high - low), share[:, position])
