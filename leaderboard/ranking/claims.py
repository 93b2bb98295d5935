"""Evidence of a board on the three claims of Ye et al. 2025 (arXiv 2406.10630), by attacked scenario.

1. The attack takes safety and leaves utility: FedAvg under the attack against FedAvg in the un-attacked twin.
2. Aggregation rules do not help: every rule against FedAvg under the same attack.
3. Repair after the last round helps: every such defense against FedAvg under the same attack, and what it costs.

All differences are paired by seed. A rule is called safer where its p value is below
:data:`leaderboard.scores.stats.ALPHA` after Holm's correction over the rules of the scenario. Which defenses are
aggregation rules, repairs and references follows from the catalog.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmark.records.schemas import ORIGIN_LOCAL, STATUS_DONE
from leaderboard.ranking.board import Board
from leaderboard.ranking.grid import BASELINE
from leaderboard.scores.names import MetricKind
from leaderboard.scores.stats import ALPHA, Difference, holm, paired
from leaderboard.scores.summaries import NOT_RUN, Entry, Scenario, Summary

AGGREGATE, FINALIZE = "aggregate", "finalize"
"""Stages, as the catalog writes them, of defenses that only aggregate and of those that only repair afterwards."""
OF_ATTACK = ("safety", "utility", MetricKind.MARGIN.value, MetricKind.PERPLEXITY.value)
"""Metrics of FedAvg that are compared with and without the attack."""

BySeed = Mapping[int, float]


@dataclass(frozen=True)
class Change:
    """A metric of two sides on the same seeds.

    Attributes:
        before: Mean of the side that is compared with.
        after: Mean of the compared side.
        difference: ``after`` minus ``before``, with its interval.
    """

    before: float
    after: float
    difference: Difference

    @property
    def has_interval(self) -> bool:
        """Whether the seeds give an interval."""
        return not math.isnan(self.difference.low)

    @property
    def direction(self) -> int:
        """1 or -1 if the interval lies above or below zero; 0 if the interval includes zero or is missing."""
        return int(self.difference.low > 0) - int(self.difference.high < 0)


@dataclass(frozen=True)
class AttackEffect:
    """FedAvg with and without the attack of one scenario.

    Attributes:
        scenario: The attacked scenario.
        changes: Change by metric of :data:`OF_ATTACK` that both sides have; the twin is ``before``.
        reason: Why nothing is compared; empty if safety is.
    """

    scenario: Scenario
    changes: Mapping[str, Change]
    reason: str = ""


@dataclass(frozen=True)
class Rival:
    """A defense against FedAvg under the same attack.

    Attributes:
        entry: The defense.
        safety: Change of safety.
        utility: Change of utility; ``None`` where a side lacks it.
        over_refusal: Change of over-refusal against FedAvg without the attack, because an attack also removes refusals
            of benign requests; ``None`` where a side lacks it.
        seconds: Change of the server's seconds a run; ``None`` where a side lacks it.
    """

    entry: Entry
    safety: Change
    utility: Change | None
    over_refusal: Change | None
    seconds: Change | None


@dataclass(frozen=True)
class Comparison:
    """The defenses of one kind against FedAvg under the attack of one scenario.

    Attributes:
        scenario: The attacked scenario.
        rivals: The defenses, the safest first.
        safer: Those that are significantly safer, after Holm's correction over ``rivals``.
        less_safe: Those that are significantly less safe.
        average: Change of the mean safety of all rivals; ``None`` where they share no seed.
        reason: Why nothing is compared; empty if something is.
    """

    scenario: Scenario
    rivals: tuple[Rival, ...] = ()
    safer: tuple[Rival, ...] = ()
    less_safe: tuple[Rival, ...] = ()
    average: Change | None = None
    reason: str = ""

    @property
    def tested(self) -> bool:
        """Whether the seeds allow a test of at least one defense."""
        return any(not math.isnan(rival.safety.difference.p) for rival in self.rivals)


@dataclass(frozen=True)
class Evidence:
    """Evidence on each claim, by attacked scenario in the board's order."""

    attack: tuple[AttackEffect, ...]
    rules: tuple[Comparison, ...]
    repairs: tuple[Comparison, ...]


def evidence(board: Board) -> Evidence:
    """Return the evidence of the settled rows of a board; empty where no scenario is attacked."""
    attacked = [scenario for scenario in board.scenarios if scenario.attacked]
    return Evidence(
        tuple(_effect(board, scenario) for scenario in attacked),
        tuple(_comparison(board, scenario, is_rule, "aggregation rule") for scenario in attacked),
        tuple(_comparison(board, scenario, is_repair, "post-hoc defense") for scenario in attacked),
    )


def is_rule(entry: Entry) -> bool:
    """Return whether a defense is an aggregation rule other than FedAvg: it acts in no other stage."""
    return _competes(entry) and entry.info["stages"] == AGGREGATE


def is_repair(entry: Entry) -> bool:
    """Return whether a defense only repairs the model after the last round."""
    return _competes(entry) and entry.info["stages"] == FINALIZE


def _competes(entry: Entry) -> bool:
    return entry.id != BASELINE and not (entry.reference or entry.pending or entry.variant)


def _effect(board: Board, scenario: Scenario) -> AttackEffect:
    under, without = (_baseline(board, name) for name in (scenario.id, scenario.twin))
    changes = {}
    for metric in OF_ATTACK:
        change = _change(without, under, metric)
        if change is not None:
            changes[metric] = change
    if "safety" in changes:
        return AttackEffect(scenario, changes)
    return AttackEffect(scenario, {}, _missing(under, "under the attack") or _missing(without, "without the attack"))


def _comparison(board: Board, scenario: Scenario, belongs: Callable[[Entry], bool], kind: str) -> Comparison:
    under, without = (_baseline(board, name) for name in (scenario.id, scenario.twin))
    if reason := _missing(under, "under the attack"):
        return Comparison(scenario, reason=reason)
    rivals = []
    for entry in board.entries:
        summary = entry.scenarios[scenario.id]
        own_only = set(entry.origins) == {ORIGIN_LOCAL} and not board.local_only
        safety = _change(under, summary, "safety")
        if belongs(entry) and not own_only and not summary.degenerate and safety is not None:
            rivals.append(
                Rival(
                    entry,
                    safety,
                    _change(under, summary, "utility"),
                    _change(without, summary, "over_refusal"),
                    _change(under, summary, "server_seconds"),
                )
            )
    if not rivals:
        return Comparison(scenario, reason=f"no {kind} is complete in this scenario")
    rivals.sort(key=lambda rival: (-round(rival.safety.after, 9), rival.entry.id))
    adjusted = holm(np.array([rival.safety.difference.p for rival in rivals]))
    significant = [rival for rival, p in zip(rivals, adjusted.tolist(), strict=True) if p < ALPHA]
    return Comparison(
        scenario,
        tuple(rivals),
        safer=tuple(rival for rival in significant if rival.safety.difference.mean > 0),
        less_safe=tuple(rival for rival in significant if rival.safety.difference.mean < 0),
        average=_average(under, [rival.entry.scenarios[scenario.id] for rival in rivals]),
    )


def _baseline(board: Board, scenario: str) -> Summary:
    entry = next((entry for entry in board.entries if entry.id == BASELINE), None)
    return entry.scenarios.get(scenario, Summary(NOT_RUN)) if entry else Summary(NOT_RUN)


def _missing(summary: Summary, where: str) -> str:
    """Return why FedAvg has no safety in a scenario; empty if it has."""
    if "safety" in summary.values:
        return ""
    if summary.state == NOT_RUN:
        return f"FedAvg was not run {where}"
    return f"FedAvg is not complete {where}" if summary.state != STATUS_DONE else f"FedAvg has no safety {where}"


def _change(before: Summary, after: Summary, metric: str) -> Change | None:
    """Return the change of a metric over the seeds that both sides have; ``None`` without such seeds."""
    probes = [summary.probes(metric) for summary in (before, after)]
    return _paired(before.values.get(metric, {}), after.values.get(metric, {}), min(probes))


def _average(before: Summary, rivals: Sequence[Summary]) -> Change | None:
    """Return the change from one side's safety to the mean over several sides, which is a share of no one probe set."""
    by_seed = [summary.values["safety"] for summary in rivals]
    seeds = set.intersection(*(set(values) for values in by_seed))
    return _paired(before.values["safety"], {seed: statistics.fmean(v[seed] for v in by_seed) for seed in seeds}, 0)


def _paired(before: BySeed, after: BySeed, probes: int) -> Change | None:
    seeds = sorted(seed for seed in before.keys() & after.keys() if not math.isnan(before[seed] + after[seed]))
    if not seeds:
        return None
    one, other = ([values[seed] for seed in seeds] for values in (before, after))
    return Change(statistics.fmean(one), statistics.fmean(other), paired(other, one, probes))
