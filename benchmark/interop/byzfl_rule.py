"""A ByzFL aggregator as a defense. Names and metadata are in :mod:`benchmark.interop.byzfl`.

This module's source is part of the keys of all rows that ByzFL's aggregators produce; that of its neighbour is not.
"""

from __future__ import annotations

from math import comb
from typing import Any, ClassVar

import torch
from torch import Tensor

from benchmark.errors import FedSafetyError, NotApplicableError
from benchmark.updates import Aggregate, RoundContext, Updates
from defenses.base import Defense

BY_COORDINATE = frozenset({"Average", "Median", "Meamed", "TrMean"})
"""Rules that treat every coordinate by itself."""
OVER_SUBSETS = frozenset({"MDA", "SMEA"})
"""Rules that look at every subset of n - f updates."""
BY_SPREAD = frozenset({"CAF", "SMEA"})
"""Rules that look for the direction of largest spread, from a random start; where there is none they return nothing."""
MEAN_AT_ZERO = frozenset({"CAF", "MDA", "Meamed", "MoNNA", "MultiKrum", "SMEA", "TrMean"})
"""Rules that keep all updates when f = 0."""
MOST_SUBSETS = 100_000
_BLOCK_NUMBERS = 1 << 23
"""Numbers handed over at once where coordinates are independent; ``torch.quantile`` refuses more than 2^24."""


class ByzFLRule(Defense):
    """Base of the classes that stand for one ByzFL aggregator with its parameters.

    ByzFL's aggregators ignore sample counts and give no client weights. Those that take ``f`` are given the scenario's
    declared bound unless their name fixes it. In a round that a rejected update made smaller than planned, f (and
    MoNNA's ``idx``) is lowered to the largest value that ByzFL takes. Rules with a random start draw it from the
    defense's own stream. Where CAF and SMEA end without a result, because all updates are the
    same or, for CAF, f = 0, the mean is taken, as their definitions have it.

    Attributes:
        defense_id: Name in rows and messages.
        aggregator: ByzFL's class.
        parameters: What its constructor is given; without ``f``, where the declared bound is.
        takes_f: Whether its constructor has the parameter ``f``.
    """

    defense_id: ClassVar[str]
    aggregator: ClassVar[type[Any]]
    parameters: ClassVar[dict[str, Any]]
    takes_f: ClassVar[bool]

    def __init__(self) -> None:
        self._made: dict[tuple[tuple[str, Any], ...], Any] = {}

    def check_shape(self, participants: int, declared_malicious: int) -> None:
        """Refuse shapes that ByzFL refuses, and those in which a rule would look at too many subsets.

        Raises:
            NotApplicableError: 2f ≥ n, MoNNA's idx ≥ n, or more than ``MOST_SUBSETS`` subsets.
        """
        f = self._bound(declared_malicious)
        if 2 * f >= participants:
            raise NotApplicableError(
                f"{self.defense_id} needs n > 2f updates a round: f = {f} needs n >= {2 * f + 1}, but "
                f"n = {participants}; let more clients take part or choose a smaller f"
            )
        index = self.parameters.get("idx", 0)
        if index >= participants:
            raise NotApplicableError(
                f"{self.defense_id} starts from update number idx = {index}, counted from 0, but a round has "
                f"n = {participants}; choose idx < {participants}"
            )
        subsets = comb(participants, f)
        if self.aggregator.__name__ in OVER_SUBSETS and subsets > MOST_SUBSETS:
            raise NotApplicableError(
                f"{self.defense_id} looks at every choice of n - f updates: n = {participants}, f = {f} are {subsets} "
                f"choices, and at most {MOST_SUBSETS} are tried; let fewer clients take part or choose a smaller f"
            )

    def degenerate_as(self, participants: int, declared_malicious: int) -> str | None:
        """Return the id of the rule of ours that is the same function in this shape, if there is one.

        ByzFL's Krum counts n - f - 1 neighbours where ours counts n - f - 2, so it equals ours for a bound that is
        smaller by one. Means are FedAvg for clients that report equal counts, as those of one cell do.
        """
        name, f = self.aggregator.__name__, self._bound(declared_malicious)
        if name == "Average" or (f == 0 and name in MEAN_AT_ZERO):
            return "fedavg"
        if name == "Median" or (name == "TrMean" and participants - 2 * f <= 2):
            return "median"
        if name == "TrMean" and f == declared_malicious:
            return "trimmed_mean"
        return "krum" if name == "Krum" and f == declared_malicious + 1 else None

    def aggregate(self, updates: Updates, context: RoundContext) -> Aggregate:
        """Return ByzFL's aggregate of the updates.

        Raises:
            FedSafetyError: ByzFL refuses the round, or its result is not finite.
        """
        rule = self._rule(len(updates), context.declared_malicious)
        try:
            # ByzFL draws from the global random state only.
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(int(torch.randint(2**62, (1,), generator=context.generator)))
                update = self._applied(rule, updates.matrix)
        except (ValueError, RuntimeError, IndexError) as error:
            raise FedSafetyError(
                f"{self.defense_id} refuses round {context.index} with {len(updates)} updates: {error}"
            ) from error
        return Aggregate(update)

    def _bound(self, declared_malicious: int) -> int:
        return int(self.parameters.get("f", declared_malicious)) if self.takes_f else 0

    def _rule(self, participants: int, declared_malicious: int) -> Any:
        """Return the aggregator for a round; the same one every time, so that it can remember earlier rounds."""
        parameters = dict(self.parameters)
        if self.takes_f:
            parameters["f"] = min(self._bound(declared_malicious), (participants - 1) // 2)
        if "idx" in parameters:
            parameters["idx"] = min(parameters["idx"], participants - 1)
        key = tuple(sorted(parameters.items()))
        if key not in self._made:
            self._made[key] = self.aggregator(**parameters)
        return self._made[key]

    def _applied(self, rule: Any, matrix: Tensor) -> Tensor:
        if self.aggregator.__name__ in BY_COORDINATE:
            columns = max(1, _BLOCK_NUMBERS // len(matrix))
            return torch.cat([rule(block) for block in torch.split(matrix, columns, dim=1)])
        if self.aggregator.__name__ in BY_SPREAD and (rule.f == 0 or bool((matrix == matrix[0]).all())):
            return matrix.mean(dim=0)
        # Clone because some rules return a row of the matrix and some return their own state.
        return Tensor.clone(rule(matrix))
