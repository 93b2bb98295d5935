"""Board of one suite: defenses, scenarios, scores with their intervals, standings and views. Data only."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from leaderboard.scores.cells import CellScore
from leaderboard.scores.stats import ALPHA, Comparisons, Difference, Estimate, paired
from leaderboard.scores.summaries import DIFFERENCES, OVERALL, Entry, Scenario
from leaderboard.views.agreement import AgreementView
from leaderboard.views.best_known import BestKnown, SubmittedAttack
from leaderboard.views.detection import DetectionView
from leaderboard.views.readings import ReadingsView
from leaderboard.views.sensitivity import Axis
from leaderboard.views.tuned import Search, WorstTuned

RANKED, BELOW_GATE, DEGENERATE, UNRANKED, REFERENCE = "ranked", "below_gate", "degenerate", "unranked", "reference"
NOT_REPRODUCED = "not_reproduced"


@dataclass(frozen=True)
class Group:
    """A group of standings.

    Attributes:
        label: Badge on the page; empty where there is none.
        short: The same for a narrow column of a terminal's table.
        reason: Why a standing of the group has no rank.
    """

    label: str
    short: str
    reason: str


LEAST_RANKED, LEAST_SEEDS = 4, 5
"""Ranked defenses and seeds below which a view is not called saturated."""

GROUPS = {
    RANKED: Group("", "", "no rank, because there are too few seeds to compare"),
    BELOW_GATE: Group("fails a gate", "gate", "not ranked, fails a gate"),
    DEGENERATE: Group("degenerate", "same", "not ranked, degenerate"),
    UNRANKED: Group("not ranked", "none", "not ranked"),
    REFERENCE: Group("reference", "ref", "reference, never ranked"),
    NOT_REPRODUCED: Group("not reproduced", "", "not ranked, not reproduced"),
}
"""Groups of a standing by id, in the order in which they are listed; the last are submissions not yet reproduced."""


@dataclass(frozen=True)
class Standing:
    """A line of a ranking: overall, or in one scenario.

    Attributes:
        entry: The defense.
        group: ``ranked``, ``below_gate``, ``degenerate``, ``unranked``, ``reference`` or ``not_reproduced``.
        rank: 1 + the number of ranked defenses that are significantly safer; ``None`` outside ``ranked`` and where
            there are too few seeds to compare.
        metrics: Estimates by metric name; ``twin_safety`` and the other ``twin_`` metrics are the defense's own
            without attack;
            ``best_known`` is there where reproduced attacks were submitted, and ``worst_tuned`` where an attack was
            searched against it.
        notes: Why it has no rank or no mean.
        better: Ids of the ranked defenses that are significantly safer.
        tied: Ids of the ranked defenses that are separated from it neither way.
        worst: The compared scenario in which its safety is lowest, with that safety; overall only.
        best_known: Its lowest safety under the attacks of the view and all reproduced submitted ones; ``None`` where it
            has no safety or there are no such attacks.
        worst_tuned: Its lowest safety under the attacks of the view and those that were tuned against it; ``None``
            where no search counts.
        clean_left_out: Whether the suite does not run it in the un-attacked twin, or in one of the compared scenarios'
            twins, so that it has no ``twin_`` metrics.
    """

    entry: Entry
    group: str
    rank: int | None
    metrics: Mapping[str, Estimate]
    notes: tuple[str, ...]
    better: tuple[str, ...] = ()
    tied: tuple[str, ...] = ()
    worst: tuple[str, Estimate] | None = None
    best_known: BestKnown | None = None
    worst_tuned: WorstTuned | None = None
    clean_left_out: bool = False

    @property
    def excess_refusal(self) -> Estimate | None:
        """Over-refusal minus that of un-attacked FedAvg on the same seeds."""
        return self.metrics.get("excess_refusal")


@dataclass(frozen=True)
class Family:
    """The comparisons of one view: all pairs of its ranked published defenses, corrected together.

    This machine's own defenses are no part of it, unless nothing is published.
    """

    ids: tuple[str, ...]
    comparisons: Comparisons


@dataclass(frozen=True)
class LocalCell:
    """A cell of this machine beside the published one of the same scenario, defense, stage and seed, if any."""

    local: CellScore
    published: CellScore | None

    @property
    def same_key(self) -> bool:
        """Whether both were made from the same code, data and settings."""
        return self.published is not None and self.published.row["cell_key"] == self.local.row["cell_key"]


@dataclass(frozen=True)
class Board:
    """Everything that the page shows of one suite.

    Attributes:
        suite: Suite id.
        info: The suite's row of table ``catalog``.
        version: Suite version.
        protocol: Protocol version.
        scenarios: Attacked ones first, each group in the suite's order; sensitivity points are not among them.
        entries: Defenses in the suite's order.
        compared: Ids of the attacked scenarios whose mean is the overall score.
        excluded: Why each other attacked scenario is not among them.
        overall: Standing by mean over ``compared``.
        by_scenario: Standing in each attacked scenario.
        families: Comparisons by view (:data:`OVERALL` or a scenario's id); absent where seeds do not allow any.
        judges: Judge ids, the primary one first.
        primary_judge: The judge whose verdicts are the headline score.
        judge_infos: Rows of table ``catalog`` by judge.
        attacks: Rows of table ``catalog`` by attack.
        seeds: All seeds of the ranked scenarios.
        seeds_in: Seeds of each ranked scenario.
        cells: The shown cells, those of sensitivity points included.
        local: This machine's cells.
        local_only: Whether there are no published rows, so that the board shows local ones.
        notices: What was left out, and why.
        sensitivity: Sensitivity sets.
        at_points: Rows of table ``catalog`` by defense, of those that run at sensitivity points alone.
        detection: How rules weigh malicious clients.
        agreement: How judges agree, with each other and with the exact one.
        retracted: Withdrawn cells with their reasons.
        ratings: Ids of the judges that give ratings, in the catalog's order; they are described in ``judge_infos`` too.
        version_notices: Which stored cells are of other versions, and that the shown protocol is not this release's;
            they stand in ``notices`` too.
        submitted_attacks: Attacks that others submitted on its scenarios, of every rung.
        readings: Labels of readers beside the verdicts of judges; ``None`` where none is stored.
        searches: Attack searches by scenario and defense.
    """

    suite: str
    info: Mapping[str, Any]
    version: str
    protocol: str
    scenarios: tuple[Scenario, ...]
    entries: tuple[Entry, ...]
    compared: tuple[str, ...]
    excluded: Mapping[str, str]
    overall: tuple[Standing, ...]
    by_scenario: Mapping[str, tuple[Standing, ...]]
    families: Mapping[str, Family]
    judges: tuple[str, ...]
    primary_judge: str
    judge_infos: Mapping[str, Mapping[str, Any]]
    attacks: Mapping[str, Mapping[str, Any]]
    seeds: tuple[int, ...]
    cells: tuple[CellScore, ...]
    local: tuple[LocalCell, ...]
    local_only: bool
    notices: tuple[str, ...]
    sensitivity: tuple[Axis, ...]
    at_points: Mapping[str, Mapping[str, Any]]
    detection: DetectionView
    agreement: AgreementView
    retracted: tuple[CellScore, ...]
    submitted_attacks: tuple[SubmittedAttack, ...] = ()
    ratings: tuple[str, ...] = ()
    version_notices: tuple[str, ...] = ()
    seeds_in: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    readings: ReadingsView | None = None
    searches: Mapping[tuple[str, str], Search] = field(default_factory=dict)

    @property
    def has_submissions(self) -> bool:
        """Whether a defense or an attack on it was submitted, so that the page explains the rungs."""
        return bool(self.submitted_attacks) or any(entry.rung is not None for entry in self.entries)

    @property
    def settled_cells(self) -> tuple[CellScore, ...]:
        """The shown cells without those of submissions that are not reproduced."""
        pending = {entry.id for entry in self.entries if entry.pending}
        return tuple(cell for cell in self.cells if cell.row["defense"] not in pending)

    @property
    def has_best_known(self) -> bool:
        """Whether a submitted attack is reproduced, so that it may lower safety."""
        return any(attack.rung.reproduced for attack in self.submitted_attacks)

    @property
    def has_worst_tuned(self) -> bool:
        """Whether an attack was searched against a defense, so that the board has a column of the lowest safety."""
        return bool(self.searches)

    def seeds_of(self, view: str) -> tuple[int, ...]:
        """Return the seeds of a view: of one scenario, or those that all compared scenarios share."""
        if view != OVERALL:
            return self.seeds_in.get(view, self.seeds)
        by_scenario = [set(self.seeds_in.get(name, self.seeds)) for name in self.compared]
        return tuple(sorted(set.intersection(*by_scenario))) if by_scenario else self.seeds

    def saturation(self, view: str) -> tuple[int, int] | None:
        """Return how many ranked defenses share the first rank, and of how many, where a view no longer separates.

        A view is saturated where more than half of at least four ranked defenses share the first rank on at least five
        seeds. With fewer seeds the comparisons have too little power, whatever the scenario is like.
        """
        placed = [line.rank for line in self.standings(view) if line.group == RANKED and line.rank is not None]
        first = placed.count(1)
        enough = len(placed) >= LEAST_RANKED and len(self.seeds_of(view)) >= LEAST_SEEDS
        return (first, len(placed)) if enough and 2 * first > len(placed) else None

    def entry(self, defense: str) -> Entry:
        """Return the defense called ``defense``; raises :class:`KeyError` if the board has none."""
        return self._by_id[defense]

    def standings(self, view: str = OVERALL) -> tuple[Standing, ...]:
        """Return the standings of a view; raises :class:`KeyError` for an unknown one."""
        return self.overall if view == OVERALL else self.by_scenario[view]

    def values(self, view: str, defense: str, metric: str = "safety") -> dict[int, float]:
        """Return a metric by seed: in one scenario, or its mean over the compared ones (seeds that all of them have).

        Empty where the defense is not complete.
        """
        names = self.compared if view == OVERALL else (view,)
        by_scenario = [self.entry(defense).scenarios[name].values.get(metric, {}) for name in names]
        shared = set.intersection(*(set(values) for values in by_scenario)) if by_scenario else set()
        return {seed: statistics.fmean(values[seed] for values in by_scenario) for seed in sorted(shared)}

    def difference(self, view: str, one: str, other: str, metric: str = "safety") -> Difference | None:
        """Return ``one`` minus ``other``, paired by seed; ``None`` where they share no seed on which both are defined.

        Its ``p`` is that of one comparison; two ranked defenses are compared by :meth:`separated`.
        """
        mine, theirs = self.values(view, one, metric), self.values(view, other, metric)
        seeds = sorted(s for s in mine.keys() & theirs.keys() if not math.isnan(mine[s] + theirs[s]))
        if not seeds:
            return None
        if metric in DIFFERENCES:
            # The twin cancels: what is left is a difference of shares, with the sign of :func:`estimates`.
            mine, theirs = (self.values(view, defense, DIFFERENCES[metric]) for defense in (one, other))
            mine, theirs = (mine, theirs) if metric == "excess_refusal" else (theirs, mine)
        names = self.compared if view == OVERALL else (view,)
        probes = min(self.entry(one).scenarios[name].probes(metric) for name in names)
        return paired([mine[seed] for seed in seeds], [theirs[seed] for seed in seeds], probes)

    def separated(self, view: str, one: str, other: str) -> bool | None:
        """Return whether the safety of two ranked defenses differs significantly; ``None`` if one is not ranked."""
        p = self.adjusted_p(view, one, other)
        return None if p is None else p < ALPHA

    def adjusted_p(self, view: str, one: str, other: str) -> float | None:
        """Return the p value of two ranked defenses after Holm's correction; ``None`` if one is not ranked."""
        family = self.families.get(view)
        if family is None or one not in family.ids or other not in family.ids or one == other:
            return None
        return float(family.comparisons.adjusted[family.ids.index(one), family.ids.index(other)])

    @cached_property
    def _by_id(self) -> dict[str, Entry]:
        return {entry.id: entry for entry in self.entries}
