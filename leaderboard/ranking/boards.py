"""Boards from cell scores: means with intervals, comparison with FedAvg, gates, and ranks with their ties.

Estimand. The safety of a defense in a scenario is its expected safety score over run seeds (client data, schedule,
adapter initialisation and batch order), for the one fixed base model, probe set and set of attack parameters of the
suite. It is estimated by the mean over the seeds that were run, with a seed-level interval
(:mod:`leaderboard.scores.stats`). The overall safety is the unweighted mean over the compared scenarios.

Compared scenarios. The overall mean of every defense is over the same scenarios: the attacked ones in which no defense
of the committed roster is not applicable or degenerate. Otherwise a rule would gain by being inapplicable where attacks
are hardest. A defense that compares the start with the model before its alignment excludes no scenario: where a start
has no alignment, the defense is not applicable and has no overall mean. A cell that failed or is missing leaves its own
defense without a mean, and no other. Seeds are those of the committed rows: further seeds of a submission neither help
it nor make others incomplete. A scenario that the suite runs on fewer seeds than the others, or for some defenses only,
has a ranking of its own and is not in the mean. In the mean it would leave the seeds of the other scenarios unused, or
defenses without a rank. A twin that the suite runs for some defenses only leaves the others without a score there, and
with their rank.

Submissions. A submission is ranked once it is reproduced (:mod:`leaderboard.rows.rungs`). Until then it stands in a
group of its own. It enters no family of comparisons, no choice of scenarios or seeds, and no statement about judges or
other defenses.

Steps. :mod:`leaderboard.ranking.sources` chooses the cells, :mod:`leaderboard.ranking.grid` summarises them,
:mod:`leaderboard.ranking.gates` holds the gates, and :mod:`leaderboard.ranking.standings` ranks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from benchmark.records.schemas import ORIGIN_LOCAL
from benchmark.records.tuned import TunedAttack
from leaderboard.ranking.board import Board, LocalCell
from leaderboard.ranking.grid import BASELINE, Grid, entry_of, scenarios_of
from leaderboard.ranking.sources import (
    ATTACKS,
    COMMITTED,
    OWN,
    PENDING,
    REPRODUCED,
    Sources,
    beside_committed,
    current_cells,
    federation,
    identity,
    shown_version,
    version_notices,
)
from leaderboard.ranking.standings import compared_scenarios, in_scenario, over_scenarios, standings_of
from leaderboard.rows.catalog import Catalog, settings_of
from leaderboard.rows.rows import Rows
from leaderboard.rows.rungs import Rung
from leaderboard.scores.cells import STATUS_RETRACTED, CellScore, scores
from leaderboard.scores.names import MetricKind, subjects
from leaderboard.scores.summaries import OVERALL, Entry, Scenario, Summary
from leaderboard.views.agreement import agreement
from leaderboard.views.best_known import SubmittedAttack, submitted_attacks
from leaderboard.views.detection import detection
from leaderboard.views.readings import readings
from leaderboard.views.sensitivity import axes
from leaderboard.views.tuned import Search, searches_of


def boards(rows: Rows) -> list[Board]:
    """Return one board a suite; none of a suite with cells of submitted attacks alone.

    Suites with published rows come first, and among them those of real language models. Otherwise the catalog's order
    holds.
    """
    catalog = Catalog(rows)
    by_suite: dict[str, list[CellScore]] = defaultdict(list)
    for score in scores(rows):
        by_suite[score.row["suite"]].append(score)
    ordered = sorted(by_suite, key=lambda suite: catalog.position("suite", suite))
    found = (_board(suite, by_suite[suite], catalog, rows) for suite in ordered)
    return sorted((board for board in found if board is not None), key=_turn)


def _turn(board: Board) -> tuple[bool, bool]:
    """Return the place of a suite's page: a world without models of its own in the suite is synthetic."""
    return board.local_only, not settings_of(board.info).get("models")


def _board(suite: str, cells: Sequence[CellScore], catalog: Catalog, rows: Rows) -> Board | None:
    sources = Sources(rows.rungs)
    tuned_cells = [cell for cell in cells if cell.row["scenario"] in catalog.tuned]
    cells = [cell for cell in cells if cell.row["scenario"] not in catalog.tuned]
    if not cells:
        return None
    version = shown_version(cells, sources)
    current, notices = current_cells(cells, sources, version)
    versions = version_notices(suite, cells, current, version)
    local = sources.of(current, OWN)
    published = [cell for name in (COMMITTED, REPRODUCED) for cell in sources.of(current, name)]
    shown, left_out = beside_committed(current, sources)
    if not shown:
        return None
    settled = [cell for cell in shown if sources.name(cell) != PENDING]
    every = scenarios_of(shown, catalog)
    scenarios = tuple(scenario for scenario in every if scenario.axis is None)
    main = {scenario.id for scenario in scenarios}
    grid = Grid(shown, settled)
    names = dict.fromkeys(cell.row["defense"] for cell in shown if cell.row["scenario"] in main)
    entries = tuple(
        entry_of(defense, grid, scenarios, catalog, rows.rungs)
        for defense in sorted(names, key=lambda defense: catalog.position("defense", defense))
    )
    info = catalog.get("suite", suite, version.suite)
    compared, excluded = compared_scenarios(entries, scenarios, _seeds(settings_of(info)))
    by_id = {scenario.id: scenario for scenario in scenarios}
    attacks, unfit = _attacks(sources.of(current, ATTACKS), shown, by_id, catalog, rows.rungs)
    searches, untuned = _searches(rows, suite, current_cells(tuned_cells, sources, version)[0], shown, entries, by_id)
    overall, family = standings_of(
        entries, lambda entry: over_scenarios(entry, compared, by_id, grid.utility), compared, attacks, searches
    )
    by_scenario, families = {}, {OVERALL: family}
    for scenario in scenarios:
        if scenario.attacked:
            judged = standings_of(entries, partial(in_scenario, scenario, by_id), (scenario.id,), attacks, searches)
            by_scenario[scenario.id], families[scenario.id] = judged
    primary = shown[0].row["primary_judge"]
    measured = {name for cell in settled for name in cell.metrics}
    judges, ratings = subjects(measured, MetricKind.JUDGE), subjects(measured, MetricKind.RATING)
    known = Grid(settled, settled)
    sensitivity = axes(settings_of(info), {scenario.id: scenario for scenario in every}, known.summary, BASELINE)
    asked = {defense for axis in sensitivity for point in axis.points for defense in point.cells}
    return Board(
        suite=suite,
        info=info,
        version=version.suite,
        protocol=version.protocol,
        scenarios=scenarios,
        entries=entries,
        compared=compared,
        excluded=excluded,
        overall=overall,
        by_scenario=by_scenario,
        families={view: family for view, family in families.items() if family is not None},
        judges=tuple(sorted(judges, key=lambda judge: (judge != primary, catalog.position("judge", judge)))),
        primary_judge=primary,
        judge_infos={judge: catalog.get("judge", judge) for judge in sorted(judges | ratings)},
        attacks={scenario.attack: catalog.get("attack", scenario.attack) for scenario in scenarios},
        seeds=tuple(sorted({seed for scenario in scenarios for seed in grid.seeds[scenario.id]})),
        seeds_in={scenario.id: tuple(sorted(grid.seeds[scenario.id])) for scenario in scenarios},
        cells=tuple(shown),
        local=_local(local, published),
        local_only=all(cell.row["origin"] == ORIGIN_LOCAL for cell in current),
        notices=(
            *versions,
            *notices,
            *grid.notices,
            *_scorers(settled, primary, catalog),
            *left_out,
            *unfit,
            *untuned,
            *catalog.notices,
        ),
        sensitivity=sensitivity,
        at_points={defense: catalog.get("defense", defense) for defense in sorted(asked - names.keys())},
        detection=detection(rows, settled, BASELINE),
        agreement=agreement(rows, settled, [scenario.id for scenario in scenarios if scenario.attacked], compared),
        retracted=tuple(cell for cell in cells if cell.state == STATUS_RETRACTED),
        submitted_attacks=attacks,
        version_notices=tuple(versions),
        searches=searches,
        readings=readings(rows, suite, settled, primary),
        ratings=tuple(sorted(ratings, key=lambda judge: catalog.position("judge", judge))),
    )


def _seeds(settings: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the run seeds in a suite's settings; none where the settings hold something else."""
    seeds = settings.get("seeds")
    return tuple(seed for seed in seeds if isinstance(seed, int)) if isinstance(seeds, list) else ()


def _attacks(
    cells: Sequence[CellScore],
    shown: Sequence[CellScore],
    scenarios: Mapping[str, Scenario],
    catalog: Catalog,
    rungs: Mapping[str, Rung],
) -> tuple[tuple[SubmittedAttack, ...], list[str]]:
    """Return the submitted attacks on the attacked scenarios of a board, and what was left out."""
    if not cells:
        return (), []
    grid, both = Grid(shown, shown), Grid([*shown, *cells], shown)
    twins = {cell.row["scenario"]: cell.row["twin"] for cell in cells}

    def summary(scenario: str, base: str, defense: str) -> Summary:
        taken = replace(scenarios[base], id=scenario, twin=twins[scenario])
        return both.summary(taken, defense, grid.seeds[base])

    return submitted_attacks(
        cells,
        {name: scenario for name, scenario in scenarios.items() if scenario.attacked},
        federation,
        {cell.row["scenario"]: federation(cell) for cell in reversed(shown)},
        catalog,
        rungs,
        summary,
    )


def _searches(
    rows: Rows,
    suite: str,
    cells: Sequence[CellScore],
    shown: Sequence[CellScore],
    entries: Sequence[Entry],
    scenarios: Mapping[str, Scenario],
) -> tuple[dict[tuple[str, str], Search], list[str]]:
    """Return the attack searches of a board, and what was left out.

    A search counts with the rows of its own source: a published one for defenses with published rows, an own one for
    defenses with own rows alone.
    """
    published, own = rows.tuned.get(suite, ()), rows.local_tuned.get(suite, ())
    if not published and not own and not cells:
        return {}, []
    local = {entry.id for entry in entries if set(entry.origins) == {ORIGIN_LOCAL}}
    known = {entry.id for entry in entries}
    results = [result for result in published if result.defense in known - local]
    results += [result for result in own if result.defense in local]
    chosen = [cell for cell in cells if (cell.row["origin"] == ORIGIN_LOCAL) == (cell.row["defense"] in local)]
    grid = Grid(shown, shown)

    def summary(result: TunedAttack, found: Sequence[CellScore]) -> Summary:
        base = scenarios[result.scenario]
        both = Grid([*shown, *found], shown)
        return both.summary(replace(base, id=result.runs_as), result.defense, grid.seeds[base.id])

    searches, notices = searches_of(
        results,
        chosen,
        {name: scenario for name, scenario in scenarios.items() if scenario.attacked},
        federation,
        {cell.row["scenario"]: federation(cell) for cell in reversed(shown)},
        summary,
    )
    lacking = [result for result in published if result.defense not in known]
    if lacking:
        names = ", ".join(sorted({result.defense for result in lacking}))
        notices.append(f"{len(lacking)} attack searches are against defenses without rows ({names}): not shown.")
    return searches, notices


def _scorers(cells: Sequence[CellScore], primary: str, catalog: Catalog) -> list[str]:
    """Return in words which scores are not by the primary judge."""
    found = {name: judge for cell in cells for name, judge in cell.judge_of.items() if judge != primary}
    titles = {name: catalog.get("judge", judge)["title"] for name, judge in found.items()}
    scored = [f"{name.replace('_', '-')} by {titles[name]}" for name in ("over_refusal", "utility") if name in titles]
    return [f"Not scored by the primary judge: {', '.join(scored)}."] if scored else []


def _local(local: Sequence[CellScore], published: Sequence[CellScore]) -> tuple[LocalCell, ...]:
    by_identity = {identity(cell): cell for cell in published}
    return tuple(LocalCell(cell, by_identity.get(identity(cell))) for cell in local)
