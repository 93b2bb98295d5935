"""The views of a board besides its rankings, arranged for the page: detection, judges, sensitivity, tasks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from leaderboard.page.data import share_values
from leaderboard.ranking.board import Board
from leaderboard.scores.names import MetricKind, kind_of, subject_of
from leaderboard.scores.stats import Estimate, estimate
from leaderboard.scores.summaries import OVERALL, Entry
from leaderboard.views.agreement import Parsing
from leaderboard.views.detection import MEASURED, Composition, Detection
from leaderboard.views.rank_agreement import RankAgreement
from leaderboard.views.sensitivity import Axis, Cell, Point

_SPLIT = ("recall", "false_exclusion", "auc")


@dataclass(frozen=True)
class DetectionTable:
    """AUC by defense and attacked scenario, and who took part.

    Attributes:
        scenarios: Ids of the attacked scenarios in which some rule was measured.
        rows: Defense with its AUC in each of ``scenarios``; pipelines are left to the rule they train with.
        without: Defenses with rounds that give no weights, or those of plain averaging.
        counts: Numbers of malicious participants that occur.
        composition: Who took part, of attacked scenarios.
    """

    scenarios: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Estimate | None, ...]], ...]
    without: tuple[str, ...]
    counts: tuple[int, ...]
    composition: tuple[Composition, ...]


def detection_table(board: Board) -> DetectionTable:
    """Return the table of ``board``; without rows where nothing was measured."""
    found = _measured(board)
    scenarios = tuple(s.id for s in board.scenarios if s.attacked and any(place[1] == s.id for place in found))
    defenses = [e.id for e in board.entries if any(place[0] == e.id for place in found)]
    rows = []
    for defense in defenses:
        values = [found[defense, name].overall if (defense, name) in found else None for name in scenarios]
        rows.append((defense, tuple(value.metrics.get("auc") if value else None for value in values)))
    silent = {one.defense for one in board.detection.detections.values() if one.state != MEASURED}
    compositions = board.detection.compositions
    composition = tuple(compositions[s.id] for s in board.scenarios if s.attacked and s.id in compositions)
    composition = tuple(one for one in composition if one.rounds)
    return DetectionTable(
        scenarios,
        tuple(rows),
        tuple(e.id for e in board.entries if e.id in silent - set(defenses) and "+" not in e.id and not e.reference),
        tuple(sorted({count for one in composition for count in one.by_malicious})),
        composition,
    )


def detection_data(board: Board) -> dict[str, list[Any]]:
    """Return for the script, by scenario, one list a defense: position, precision, recall, … and splits of the rounds.

    A split is its name, its number of rounds, and recall, false exclusion and AUC in them.
    """
    positions = {entry.id: position for position, entry in enumerate(board.entries)}
    made: dict[str, list[Any]] = defaultdict(list)
    for (defense, scenario), one in sorted(_measured(board).items(), key=lambda item: positions[item[0][0]]):
        assert one.overall is not None
        whole = [share_values(one.overall.metrics.get(name)) for name in ("precision", *_SPLIT)]
        groups = {f"{count} malicious": metrics for count, metrics in (one.by_malicious or {}).items()}
        halves = one.by_majority or {}
        if len(halves) > 1:
            groups.update({("majority" if flag else "minority"): metrics for flag, metrics in halves.items()})
        splits = [
            [name, metrics.rounds, [share_values(metrics.metrics.get(metric)) for metric in _SPLIT]]
            for name, metrics in groups.items()
        ]
        made[scenario].append([positions[defense], whole, splits if len(splits) > 1 else [], one.discarded])
    return dict(made)


@dataclass(frozen=True)
class JudgePair:
    """Two judges: kappa by kind of probe, and how alike they order the defenses overall."""

    judges: tuple[str, ...]
    kappa: Mapping[str, Estimate]
    ranks: RankAgreement | None


@dataclass(frozen=True)
class JudgeLine:
    """A judge on a kind of probe: parse failures, and its calibration against a reference (empty without one)."""

    judge: str
    kind: str
    parsing: Parsing | None
    reference: str
    metrics: Mapping[str, Estimate]


@dataclass(frozen=True)
class Judging:
    """Agreement of judges over scored strata; ``alpha`` is by kind."""

    pairs: tuple[JudgePair, ...]
    alpha: tuple[tuple[str, Estimate], ...]
    kinds: tuple[str, ...]
    lines: tuple[JudgeLine, ...]
    people: bool


def judging(board: Board) -> Judging:
    """Return the page's tables of the judges of ``board``."""
    view = board.agreement
    kappas: dict[tuple[str, ...], dict[str, Estimate]] = defaultdict(dict)
    for one in view.kappa:
        if not one.stratum and one.by_seed:
            kappas[one.judges][one.kind] = one.coefficient
    ranks = {(one.first, one.second): one for one in view.ranks if one.scenario == OVERALL}
    pairs = tuple(
        JudgePair(judges, kappa, next((r for key, r in ranks.items() if set(key) == set(judges)), None))
        for judges, kappa in kappas.items()
    )
    calibrations = {(one.judge, one.kind, one.reference): one for one in view.calibration if not one.stratum}
    lines = []
    for parsing in view.parsing:
        own = [one for (judge, kind, _), one in calibrations.items() if (judge, kind) == (parsing.judge, parsing.kind)]
        if own:
            lines += [JudgeLine(one.judge, one.kind, parsing, one.reference, one.metrics) for one in own]
        else:
            lines.append(JudgeLine(parsing.judge, parsing.kind, parsing, "", {}))
    return Judging(
        pairs,
        tuple((one.kind, one.coefficient) for one in view.alpha if not one.stratum and one.by_seed),
        tuple(sorted({kind for kappa in kappas.values() for kind in kappa})),
        tuple(lines) if len(view.judges) > 1 or any(line.parsing and line.parsing.unparsable for line in lines) else (),
        any(line.reference == "human" for line in lines),
    )


@dataclass(frozen=True)
class AtPoint:
    """A defense at a point of a sensitivity set, with and without attack."""

    axis: Axis
    point: Point
    cell: Cell
    twin: Cell | None


def points_of(board: Board, defense: str) -> list[AtPoint]:
    """Return every point of a sensitivity set that asks for ``defense``."""
    return [
        AtPoint(axis, point, point.cells[defense], point.twins.get(defense))
        for axis in board.sensitivity
        for point in axis.points
        if defense in point.cells
    ]


@dataclass(frozen=True)
class TaskScores:
    """Scores of tasks of lm-evaluation-harness: by scenario, one a task of ``names``, over the seeds that have it."""

    names: tuple[str, ...]
    by_scenario: tuple[tuple[str, tuple[Estimate | None, ...]], ...]


def task_scores(board: Board, entry: Entry) -> TaskScores:
    """Return the scores of ``entry`` on tasks of lm-evaluation-harness; without names where no row has any."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for scenario in board.scenarios:
        for cell in entry.scenarios[scenario.id].cells.values():
            for metric, value in cell.metrics.items():
                if kind_of(metric) == MetricKind.TASK:
                    found[scenario.id][subject_of(metric)].append(value)
    names = tuple(sorted({name for scores in found.values() for name in scores}))
    return TaskScores(
        names,
        tuple(
            (scenario, tuple(estimate(scores[name]) if name in scores else None for name in names))
            for scenario, scores in found.items()
        ),
    )


def retracted(board: Board) -> list[tuple[str, list[str]]]:
    """Return every reason with the cells it holds for, seeds gathered: ``krum in sampled, seed 11, 12``."""
    found: dict[str, dict[tuple[str, str], list[int]]] = defaultdict(lambda: defaultdict(list))
    for cell in board.retracted:
        found[cell.reason][cell.row["defense"], cell.row["scenario"]].append(cell.row["seed"])
    return [
        (reason, [f"{d} in {s}, seed {', '.join(map(str, sorted(set(seeds))))}" for (d, s), seeds in places.items()])
        for reason, places in found.items()
    ]


def _measured(board: Board) -> dict[tuple[str, str], Detection]:
    attacked = {scenario.id for scenario in board.scenarios if scenario.attacked}
    known: Sequence[str] = [entry.id for entry in board.entries]
    return {
        (one.defense, one.scenario): one
        for one in board.detection.detections.values()
        if one.state == MEASURED and one.rule == one.defense and one.scenario in attacked and one.defense in known
    }
