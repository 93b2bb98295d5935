"""Malicious clients that divide one pool among them instead of all drawing from it."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np

from attacks._data_poisoning import DataPoisoning
from attacks.base import AttackerResources
from tasks.base import Example


@dataclass(frozen=True)
class ShardedPoisoning(DataPoisoning):
    """Gives each malicious client the next rows of the pool, so that no two hold the same while the pool lasts.

    An instance counts the rows that it has given. The count is right because a run calls :meth:`pool` once and then
    :meth:`poison` once for each malicious client, in the order of clients. The count is needed because :meth:`poison`
    does not get the client's number. A new :meth:`pool` starts at the first row again. The count is not a field, so
    that two instances with equal settings are equal.

    Attributes:
        pool_size: Rows of the pool for all malicious clients together. Where they need more, it starts anew.
    """

    pool_size: int = 1500

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pool_size < 1:
            raise ValueError(f"pool_size is {self.pool_size}; malicious clients need at least one row")
        self._start_anew()

    def pool(self, resources: AttackerResources, rng: np.random.Generator) -> list[Example]:
        """Return the rows that malicious clients divide, in the order in which they are given out."""
        self._start_anew()
        return self.with_reminders(self.pairs(resources, rng), resources.automation, rng)

    @abstractmethod
    def pairs(self, resources: AttackerResources, rng: np.random.Generator) -> list[Example]:
        """Return the pool without reminders."""

    def poison(self, normal: list[Example], pool: list[Example], rng: np.random.Generator) -> list[Example]:
        """Return as many rows as ``normal``: a random part of it, the rest the next rows of the pool, shuffled."""
        kept = round(self.normal_share * len(normal))
        given: list[int] = self.__dict__["_given"]
        first, wanted = given[0], len(normal) - kept
        given[0] = first + wanted
        rows = [normal[i] for i in rng.permutation(len(normal))[:kept]]
        rows += [pool[i % len(pool)] for i in range(first, first + wanted)]
        return [rows[i] for i in rng.permutation(len(rows))]

    def _start_anew(self) -> None:
        # A list in a frozen dataclass, because the count is not a setting.
        object.__setattr__(self, "_given", [0])
