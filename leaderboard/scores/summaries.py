"""Summaries: a defense in a scenario over its seeds, and in all scenarios of a suite."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from leaderboard.rows.rungs import Rung
from leaderboard.scores.cells import CellScore
from leaderboard.scores.stats import Estimate, estimate, paired

OVERALL = "*"
"""The view over all compared scenarios; every other view is an attacked scenario's id."""


NOT_RUN, INCOMPLETE = "not_run", "incomplete"
"""States of a defense in a scenario besides the cell states: no rows at all; some seeds lack a score."""


DIFFERENCES = {"drop": "safety", "excess_refusal": "over_refusal", "lost_utility": "utility"}
"""Metrics that are differences to un-attacked FedAvg on the same seed, with the share they are differences of."""


def estimates(values: Mapping[str, Mapping[int, float]], probes: Mapping[str, int]) -> dict[str, Estimate]:
    """Return mean and interval of each metric over seeds.

    Args:
        values: Value by seed, by metric.
        probes: Number of probes behind each metric that is a share or a difference of shares; 0 for others.
    """
    result = {}
    for metric, by_seed in values.items():
        share = DIFFERENCES.get(metric)
        result[metric] = estimate(by_seed.values(), 0 if share else probes[metric])
        if share is not None and len(by_seed) > 1:
            shares = [values[share][seed] for seed in by_seed]
            # A positive difference is worse: FedAvg's twin minus the defense, for refusals the defense minus the twin.
            sign = -1 if metric == "excess_refusal" else 1
            twin = [value + sign * by_seed[seed] for value, seed in zip(shares, by_seed, strict=True)]
            pair = (shares, twin) if metric == "excess_refusal" else (twin, shares)
            difference = paired(*pair, probes[metric])
            result[metric] = replace(result[metric], low=difference.low, high=difference.high, method=difference.method)
    return result


@dataclass(frozen=True)
class Summary:
    """A defense in a scenario.

    Attributes:
        state: ``done`` if every seed is scored, else the most informative of the other states.
        reasons: Why it is not ``done``, each with its seeds.
        degenerate: The simpler defense that it equals in this shape; empty if none.
        flags: All remarks on validity.
        cells: The cells by seed.
        values: Value by seed, by metric name (see :class:`leaderboard.scores.cells.CellScore`), with ``drop``,
            ``recovery`` and the other :data:`DIFFERENCES` where FedAvg's rows allow them; empty unless ``done``.
        gate: The gates that it fails, in words; ``None`` if that is unknown.
    """

    state: str
    reasons: tuple[str, ...] = ()
    degenerate: str = ""
    flags: tuple[str, ...] = ()
    cells: Mapping[int, CellScore] = field(default_factory=dict)
    values: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    gate: tuple[str, ...] | None = None

    @cached_property
    def metrics(self) -> Mapping[str, Estimate]:
        """Estimates over seeds by metric name; empty unless ``done``."""
        return estimates(self.values, {name: self.probes(name) for name in self.values})

    def probes(self, metric: str) -> int:
        """Return the number of probes behind a share; 0 for a metric that is not a share."""
        share = DIFFERENCES.get(metric, metric)
        return min((cell.behind(share) for cell in self._by_probe_set), default=0)

    @cached_property
    def _by_probe_set(self) -> list[CellScore]:
        """One cell of each probe set; the other cells of a set have the same numbers of probes."""
        return list({id(cell.probes): cell for cell in self.cells.values()}.values())


@dataclass(frozen=True)
class Scenario:
    """A scenario of the board; it is attacked unless it is its own twin."""

    id: str
    twin: str
    attack: str
    info: Mapping[str, Any]
    shape: Mapping[str, Any]
    """The federation's shape, from the rows."""
    axis: Mapping[str, Any] | None = None
    """Axis and place of a point of a sensitivity set. Such points are never ranked."""
    seeds: tuple[int, ...] = ()
    """Run seeds of its own; empty for the suite's."""
    defenses: tuple[str, ...] = ()
    """Defenses of its own, FedAvg among them; empty for the suite's."""

    def leaves_out(self, defense: str) -> bool:
        """Whether the suite does not run a defense here."""
        return bool(self.defenses) and defense not in self.defenses

    @property
    def attacked(self) -> bool:
        """Whether an attack takes place."""
        return self.id != self.twin


@dataclass(frozen=True)
class Entry:
    """A defense of the board, with its summary in every scenario.

    Attributes:
        id: Registry id or pipeline.
        info: Its row of table ``catalog``, or a substitute.
        origins: Origins of its rows.
        reference: Whether it is an unranked reference row.
        knowledge: Its knowledge of the attackers.
        scenarios: Summary by scenario id, for the whole pipeline.
        stages: Summary by scenario id, by intermediate stage.
        rung: Verification of a submission; ``None`` for runs of the project and local runs.
        needs_alignment: Whether it, or a part of it, compares the start with the model before its alignment.
    """

    id: str
    info: Mapping[str, Any]
    origins: tuple[str, ...]
    reference: bool
    knowledge: str
    scenarios: Mapping[str, Summary]
    stages: Mapping[str, Mapping[str, Summary]]
    rung: Rung | None = None
    needs_alignment: bool = False

    @property
    def pending(self) -> bool:
        """Whether it was submitted and is not reproduced, so that it is shown and never ranked."""
        return self.rung is not None and not self.rung.reproduced

    @property
    def variant(self) -> bool:
        """Whether every scenario with cells flags it as a variant of another defense."""
        flags = [summary.flags for summary in self.scenarios.values() if summary.cells]
        return bool(flags) and all(any(flag.startswith("variant:") for flag in marks) for marks in flags)
