"""Standings: the group of each defense in a view, and the ranks of the ranked ones.

The family of comparisons is one view, a scenario or the overall mean: all pairs of its ranked defenses, paired by seed,
with Holm's correction. A defense's rank is 1 + the number of defenses that are significantly safer. Equal ranks are
ties; being tied is not transitive, and no order among tied defenses is claimed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from benchmark.records.schemas import ORIGIN_COMMITTED, ORIGIN_LOCAL, STATUS_DONE, STATUS_NOT_APPLICABLE
from leaderboard.ranking.board import (
    BELOW_GATE,
    DEGENERATE,
    GROUPS,
    NOT_REPRODUCED,
    RANKED,
    REFERENCE,
    UNRANKED,
    Family,
    Standing,
)
from leaderboard.ranking.gates import failed_gates
from leaderboard.ranking.ties import Place
from leaderboard.scores.stats import Estimate, compare_all
from leaderboard.scores.summaries import NOT_RUN, Entry, Scenario, Summary, estimates
from leaderboard.views.best_known import BestKnown, SubmittedAttack, best_known
from leaderboard.views.tuned import Search, worst_tuned

_OF_TWIN = ("safety", "utility", "margin", "perplexity")
"""Metrics that a standing also gives without the attack."""


class Verdict(NamedTuple):
    """A defense in a view, before it is ranked.

    Attributes:
        group: Group of the standing.
        metrics: Estimates by metric name.
        notes: Why it has no rank or no mean.
        safety: Safety by seed.
        clean_left_out: Whether the suite does not run it without the attack.
    """

    group: str
    metrics: Mapping[str, Estimate]
    notes: tuple[str, ...]
    safety: Mapping[int, float]
    clean_left_out: bool = False


def compared_scenarios(
    entries: Sequence[Entry], scenarios: Sequence[Scenario], suite_seeds: Collection[int] = ()
) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return the attacked scenarios that enter the overall mean, and why the others do not.

    Args:
        entries: Defenses with their summaries.
        scenarios: All scenarios of the ranking.
        suite_seeds: Run seeds of the scenarios that have none of their own.
    """
    attacked = [scenario.id for scenario in scenarios if scenario.attacked]

    def outside(summary: Summary) -> bool:
        return bool(summary.degenerate) or summary.state == STATUS_NOT_APPLICABLE

    def excludes(entry: Entry, name: str) -> bool:
        # The start has no alignment. The defense then has no mean, so it gains nothing by being inapplicable.
        lacks_alignment = entry.needs_alignment and entry.scenarios[name].state == STATUS_NOT_APPLICABLE
        return outside(entry.scenarios[name]) and not lacks_alignment

    # A defense that is valid in no scenario is not in the roster; else it would exclude every scenario.
    origins = {origin for entry in entries for origin in entry.origins}
    roster = [
        entry
        for entry in entries
        if not entry.reference
        and not entry.pending
        and (ORIGIN_COMMITTED in entry.origins or ORIGIN_COMMITTED not in origins)
        and any(entry.scenarios[name].state == STATUS_DONE and not outside(entry.scenarios[name]) for name in attacked)
    ]
    excluded = {}
    by_id = {scenario.id: scenario for scenario in scenarios}
    for name in attacked:
        blocking = [entry.id for entry in roster if excludes(entry, name)]
        absent = [
            e.id for e in roster if not e.scenarios[name].cells and by_id[name].leaves_out(e.id) and not e.variant
        ]
        if blocking:
            excluded[name] = f"not applicable or degenerate there: {', '.join(blocking)}"
        elif absent:
            excluded[name] = f"not run there: {', '.join(absent)}"
    compared = [by_id[name] for name in attacked if name not in excluded]
    for scenario in _on_fewer_seeds(compared, set(suite_seeds)):
        seeds = ", ".join(map(str, scenario.seeds))
        excluded[scenario.id] = f"run on the seeds {seeds} alone, and a mean needs the same seeds in every scenario"
    return tuple(scenario.id for scenario in compared if scenario.id not in excluded), excluded


def _on_fewer_seeds(scenarios: Sequence[Scenario], suite_seeds: set[int]) -> list[Scenario]:
    """Return the scenarios that lack seeds of the others by the suite's settings.

    The seeds to have are the suite's if a scenario runs on all of them, or else those of the first scenario.
    """

    def has(scenario: Scenario, seeds: set[int]) -> bool:
        return not scenario.seeds or (bool(seeds) and seeds <= set(scenario.seeds))

    if any(has(scenario, suite_seeds) for scenario in scenarios):
        return [scenario for scenario in scenarios if not has(scenario, suite_seeds)]
    return [scenario for scenario in scenarios if not has(scenario, set(scenarios[0].seeds))]


def in_scenario(scenario: Scenario, scenarios: Mapping[str, Scenario], entry: Entry) -> Verdict:
    """Return the verdict on ``entry`` in one of the ``scenarios``."""
    verdict = _in_scenario(scenario, entry)
    return verdict._replace(clean_left_out=_clean_left_out(entry, [scenario.id], scenarios))


def _clean_left_out(entry: Entry, names: Sequence[str], scenarios: Mapping[str, Scenario]) -> bool:
    """Return whether the suite runs a defense in the twin of not every scenario called ``names``."""
    twins = [scenarios[name].twin for name in names]
    return any(
        twin in scenarios and scenarios[twin].leaves_out(entry.id) and not entry.scenarios[twin].cells for twin in twins
    )


def _in_scenario(scenario: Scenario, entry: Entry) -> Verdict:
    summary = entry.scenarios[scenario.id]
    metrics = dict(summary.metrics)
    twin = entry.scenarios.get(scenario.twin, Summary(NOT_RUN))
    metrics.update({f"twin_{name}": twin.metrics[name] for name in _OF_TWIN if name in twin.metrics})
    group, notes = _group(entry, summary.gate, measured="utility" in summary.values)
    if group == BELOW_GATE:  # flags of the scenario hold for those that are ranked, too
        return Verdict(group, metrics, notes, summary.values.get("safety", {}))
    safety = summary.values.get("safety", {})
    if not entry.reference and summary.state != STATUS_DONE:
        return Verdict(UNRANKED, metrics, summary.reasons + summary.flags, safety)
    if not entry.reference and summary.degenerate:
        return Verdict(DEGENERATE, metrics, summary.flags, safety)
    return Verdict(group, metrics, summary.reasons + summary.flags + notes, safety)


def over_scenarios(entry: Entry, compared: Sequence[str], scenarios: Mapping[str, Scenario], measure: str) -> Verdict:
    """Return the verdict on ``entry`` over the compared scenarios.

    Its values without attack are means over the twins of all compared scenarios. A defense that the suite leaves out of
    one of these twins has none of them; its other values and its rank do not depend on them.
    """
    group = REFERENCE if entry.reference else UNRANKED
    if not compared:
        return Verdict(group, {}, ("no scenario in which all defenses are applicable and different",), {})
    summaries = [entry.scenarios[name] for name in compared]
    if entry.variant:
        titles = [scenarios[name].info["title"] for name, s in entry.scenarios.items() if s.cells]
        return Verdict(UNRANKED, {}, (f"a variant for single scenarios: {', '.join(titles)}",), {})
    notes = [
        f"{name}: {'; '.join(summary.reasons) or summary.degenerate}"
        for name, summary in zip(compared, summaries, strict=True)
        if summary.state != STATUS_DONE or summary.degenerate
    ]
    if notes:
        return Verdict(group, {}, tuple(notes), {})
    values = _means(summaries)
    metrics = _estimates(summaries, values)
    twins = [entry.scenarios.get(scenarios[name].twin, Summary(NOT_RUN)) for name in compared]
    if all(twin.state == STATUS_DONE for twin in twins):
        means = _estimates(twins, _means(twins))
        metrics.update({f"twin_{name}": means[name] for name in _OF_TWIN if name in means})
    group, gate_notes = _group(entry, failed_gates(values, measure), measured="utility" in values)
    left_out = _clean_left_out(entry, compared, scenarios)
    return Verdict(group, metrics, gate_notes, values.get("safety", {}), left_out)


def _group(entry: Entry, gate: tuple[str, ...] | None, *, measured: bool) -> tuple[str, tuple[str, ...]]:
    """Return the group of a completely scored defense, and why it is not ranked."""
    if entry.reference:
        return REFERENCE, ()
    if gate is None:
        why = "FedAvg's twin is not complete" if measured else "utility is not measured in every cell"
        return UNRANKED, (f"the utility gate cannot be checked: {why}",)
    return (BELOW_GATE, gate) if gate else (RANKED, ())


def _means(summaries: Sequence[Summary]) -> dict[str, dict[int, float]]:
    """Return by metric and seed the mean over scenarios; over all seeds' means alone where scenarios share none."""
    names = sorted(set.intersection(*(set(summary.values) for summary in summaries)))
    means = {}
    for name in names:
        by_scenario = [summary.values[name] for summary in summaries]
        seeds = sorted(set.intersection(*(set(values) for values in by_scenario)))
        means[name] = {seed: math.fsum([values[seed] for values in by_scenario]) / len(by_scenario) for seed in seeds}
    return means


def _estimates(summaries: Sequence[Summary], means: Mapping[str, Mapping[int, float]]) -> dict[str, Estimate]:
    return estimates(means, {name: min(summary.probes(name) for summary in summaries) for name in means})


def standings_of(
    entries: Sequence[Entry],
    judge: Callable[[Entry], Verdict],
    names: Sequence[str],
    attacks: Sequence[SubmittedAttack],
    searches: Mapping[tuple[str, str], Search] = MappingProxyType({}),
) -> tuple[tuple[Standing, ...], Family | None]:
    """Return the standings over the scenarios called ``names``, and the comparisons that the ranks rest on."""
    verdicts = {entry.id: _apart(entry, judge(entry)) for entry in entries}
    has_best_known = any(attack.rung.reproduced for attack in attacks)
    by_id = {entry.id: entry for entry in entries}

    def family_of(ids: Sequence[str]) -> Family | None:
        probes = min((by_id[id_].scenarios[name].probes("safety") for id_ in ids for name in names), default=0)
        return _family(ids, [verdicts[id_].safety for id_ in ids], probes)

    ranked = [entry for entry in entries if verdicts[entry.id].group == RANKED]
    own = [entry.id for entry in ranked if set(entry.origins) == {ORIGIN_LOCAL}]
    published = [entry.id for entry in ranked if entry.id not in own]
    family = family_of(published or own)
    places = {id_: Place.of(family, id_) for id_ in published or own}
    # A published rank is cited, so own rows may not change it: each is placed alone, as if it were submitted.
    places.update({id_: Place.of(family_of([*published, id_]), id_) for id_ in own if published})

    def order(entry: Entry) -> tuple[int, int, float, str]:
        verdict = verdicts[entry.id]
        safety = verdict.metrics["safety"].mean if "safety" in verdict.metrics else -1.0
        place = places.get(entry.id, Place())
        return list(GROUPS).index(verdict.group), place.rank or 0, -round(safety, 9), entry.id

    standings = []
    for entry in sorted(entries, key=order):
        group, metrics, notes, _, clean_left_out = verdicts[entry.id]
        place = places.get(entry.id, Place())
        lowest: BestKnown | None = None
        if has_best_known and "safety" in metrics:
            lowest = best_known(entry, names, attacks)
            metrics = {**metrics, "best_known": lowest.safety} if lowest else metrics
        tuned = worst_tuned(entry, names, searches) if "safety" in metrics else None
        standings.append(
            Standing(
                entry=entry,
                group=group,
                rank=place.rank,
                metrics={**metrics, "worst_tuned": tuned.safety} if tuned else metrics,
                notes=notes,
                better=place.better,
                tied=place.tied,
                worst=_worst(entry, names) if len(names) > 1 and "safety" in metrics else None,
                best_known=lowest,
                worst_tuned=tuned,
                clean_left_out=clean_left_out,
            )
        )
    return tuple(standings), family


def _apart(entry: Entry, verdict: Verdict) -> Verdict:
    """Return the verdict on ``entry``; a submission that is not reproduced keeps its scores and stands apart."""
    if entry.rung is None or entry.rung.reproduced:
        return verdict
    why = f": {entry.rung.reason}" if entry.rung.reason else ""
    notes = (f"{entry.rung.name}, not reproduced{why}", *verdict.notes)
    return verdict._replace(group=NOT_REPRODUCED, notes=notes)


def _family(ids: Sequence[str], safeties: Sequence[Mapping[int, float]], probes: int) -> Family | None:
    """Return all pairwise comparisons, or ``None`` where there are fewer than two seeds to compare on."""
    seeds = sorted(set.intersection(*(set(values) for values in safeties))) if safeties else []
    if len(seeds) < 2:
        return None
    values = np.array([[by_seed[seed] for seed in seeds] for by_seed in safeties])
    return Family(tuple(ids), compare_all(values, probes))


def _worst(entry: Entry, names: Sequence[str]) -> tuple[str, Estimate]:
    """Return the scenario in which the defense is least safe, the first of equals."""
    return min(((name, entry.scenarios[name].metrics["safety"]) for name in names), key=lambda pair: pair[1].mean)
