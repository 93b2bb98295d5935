"""Ranks and ties in a family of comparisons.

A defense's rank is 1 + the number of defenses that are significantly safer. Two defenses are tied where neither is
significantly safer than the other, for any difference of their means.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from leaderboard.ranking.board import Family
from leaderboard.scores.stats import Bools, Ints


@dataclass(frozen=True)
class Place:
    """Place of a defense in a family.

    Attributes:
        rank: Its rank; ``None`` where there is no family, because there are too few seeds.
        better: Ids of the defenses that are significantly safer.
        tied: Ids of the defenses that are not separated from this defense.
    """

    rank: int | None = None
    better: tuple[str, ...] = ()
    tied: tuple[str, ...] = ()

    @staticmethod
    def of(family: Family | None, defense: str) -> Place:
        """Return the place of ``defense``, which is a member of the family."""
        if family is None:
            return Place()
        wins = family.comparisons.better()
        index = family.ids.index(defense)
        better = tuple(id_ for id_, safer in zip(family.ids, wins[:, index], strict=True) if safer)
        worse = {id_ for id_, below in zip(family.ids, wins[index], strict=True) if below}
        tied = tuple(id_ for id_ in family.ids if id_ != defense and id_ not in worse | set(better))
        return Place(int(ranks(wins)[index]), better, tied)


def ranks(better: Bools) -> Ints:
    """Return the rank of each defense, [m].

    Two separated defenses may share a rank, and two defenses of different ranks need not be separated, because "not
    separated" is not transitive.

    Args:
        better: [m, m], whether i is significantly better than j.
    """
    worse_than: Ints = np.asarray(better, bool).sum(axis=0, dtype=np.int64)
    return 1 + worse_than
