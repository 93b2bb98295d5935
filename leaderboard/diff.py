"""Differences between two lists of boards: lines, ranks, ties, the comparison itself, and best-known values.

Two boards are compared view by view. What is reported is what a reader would see change: a line that is new or gone;
another score, rank or group; two ranked defenses that become tied or separated, by the tests of the ranks; scenarios
that enter or leave the mean; whom a submitted attack lowers. How it is written is :mod:`leaderboard.diff_text`'s.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from leaderboard.page.formats import percent
from leaderboard.ranking.board import RANKED, Board, Standing
from leaderboard.scores.stats import Estimate
from leaderboard.scores.summaries import OVERALL
from leaderboard.views.best_known import SubmittedAttack


@dataclass(frozen=True)
class Line:
    """A defense in a view.

    Attributes:
        defense: Id.
        group: Group of the standing.
        rank: Rank; ``None`` without one.
        safety: Mean and interval; ``None`` without a score.
        rung: How far it was verified; empty for what was not submitted.
        notes: Why it has no rank or no score.
        tied: Ranked defenses that are separated from it neither way.
        better: Ranked defenses that are significantly safer.
        worse: Ranked defenses that are significantly less safe.
    """

    defense: str
    group: str
    rank: int | None
    safety: Estimate | None
    rung: str
    notes: tuple[str, ...]
    tied: tuple[str, ...]
    better: tuple[str, ...]
    worse: tuple[str, ...]


@dataclass(frozen=True)
class Changed:
    """A line that is on both boards and not the same."""

    before: Line
    after: Line


@dataclass(frozen=True)
class Tie:
    """Two defenses ranked on both boards, whose tie came or went."""

    one: str
    other: str
    tied: bool
    """Whether they are tied afterwards; they were separated before if so, and the other way round."""


@dataclass(frozen=True)
class Lowered:
    """A best-known value that is another.

    Attributes:
        defense: Id.
        before: Lowest known safety before.
        after: And after.
        attack: The submitted attack that it is by; empty for the scenario's own.
        scenario: The scenario in which it is.
    """

    defense: str
    before: Estimate
    after: Estimate
    attack: str
    scenario: str


@dataclass(frozen=True)
class ViewDiff:
    """Differences in one view.

    Attributes:
        view: :data:`OVERALL` or a scenario's id.
        title: Its title; empty for the mean.
        added: Lines that were not there.
        removed: Ids of lines that go.
        changed: Lines with another score, rank, group or rung.
        ties: Pairs of defenses that become tied or separated.
        lowered: Best-known values that are others.
    """

    view: str
    title: str
    added: tuple[Line, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[Changed, ...] = ()
    ties: tuple[Tie, ...] = ()
    lowered: tuple[Lowered, ...] = ()

    @property
    def empty(self) -> bool:
        """Whether nothing changes."""
        return not (self.added or self.removed or self.changed or self.ties or self.lowered)


@dataclass(frozen=True)
class AttackLine:
    """A submitted attack that is new or on another rung: whom it was run against, and whom not."""

    id: str
    base: str
    rung: str
    previewed: str
    attacked: tuple[str, ...]
    spared: tuple[str, ...]


@dataclass(frozen=True)
class BoardDiff:
    """Differences on the board of one suite.

    Attributes:
        suite: Suite id.
        title: Its title.
        new: Whether there was no board of it.
        methods: What is previewed, by id: ``local`` or the rung that it has reached so far.
        views: The mean first, then every attacked scenario; those without a change as well.
        compared: Scenarios that enter the mean, before and after.
        excluded: Why others do not, afterwards, where that is new.
        attacks: Submitted attacks that are new or on another rung.
        missing: By new or changed line without a rank: what it lacks in which scenarios of the mean.
        notices: Notices that were not there.
    """

    suite: str
    title: str
    new: bool
    methods: Mapping[str, str]
    views: tuple[ViewDiff, ...]
    compared: tuple[tuple[str, ...], tuple[str, ...]]
    excluded: Mapping[str, str]
    attacks: tuple[AttackLine, ...]
    missing: Mapping[str, tuple[str, ...]]
    notices: tuple[str, ...]

    @property
    def empty(self) -> bool:
        """Whether a reader of the board sees the same as before; a notice is no change."""
        same = self.compared[0] == self.compared[1] and not self.attacks and not self.excluded
        return same and not self.new and all(view.empty for view in self.views)


def diff_boards(before: Sequence[Board], after: Sequence[Board]) -> list[BoardDiff]:
    """Return what changes from ``before`` to ``after``, one entry a suite, in the order of ``after``.

    A suite that is on ``before`` alone comes last, with all of its lines gone.
    """
    old, new = ({board.suite: board for board in boards} for boards in (before, after))
    suites = [*new, *(suite for suite in old if suite not in new)]
    return [_board(old.get(suite), new.get(suite)) for suite in suites]


def as_json(diffs: Sequence[BoardDiff]) -> dict[str, Any]:
    """Return the differences as JSON can hold them; shares are in 0..1."""
    return {"changes": any(not diff.empty for diff in diffs), "suites": [_json(diff) for diff in diffs]}


def _board(before: Board | None, after: Board | None) -> BoardDiff:
    shown = after or before
    assert shown is not None
    names = [view for board in (after, before) if board for view in (OVERALL, *board.by_scenario)]
    views = tuple(_view(before, after, view) for view in dict.fromkeys(names))
    rungs = {entry.id: entry.rung for entry in after.entries if entry.rung} if after else {}
    attacks = after.submitted_attacks if after else ()
    methods = {id_: rung.previewed for id_, rung in rungs.items() if rung.previewed}
    methods |= {attack.id: attack.rung.previewed for attack in attacks if attack.rung.previewed}
    excluded_before = before.excluded if before else {}
    notices_before = set(before.notices) if before else set()
    return BoardDiff(
        suite=shown.suite,
        title=shown.info["title"],
        new=before is None,
        methods=methods,
        views=views,
        compared=(before.compared if before else (), after.compared if after else ()),
        excluded={
            name: why for name, why in (after.excluded if after else {}).items() if excluded_before.get(name) != why
        },
        attacks=_attacks(before, after),
        missing=_missing(views, after),
        notices=tuple(notice for notice in (after.notices if after else ()) if notice not in notices_before),
    )


def _view(before: Board | None, after: Board | None, view: str) -> ViewDiff:
    old, new = (_lines(board, view) for board in (before, after))
    titles = {s.id: s.info["title"] for board in (before, after) if board for s in board.scenarios}
    shared = [name for name in new if name in old]
    return ViewDiff(
        view=view,
        title=titles.get(view, ""),
        added=tuple(line for name, line in new.items() if name not in old),
        removed=tuple(name for name in old if name not in new),
        changed=tuple(Changed(old[name], new[name]) for name in shared if _shown(old[name]) != _shown(new[name])),
        ties=_ties(before, after, view, [name for name in shared if old[name].rank and new[name].rank]),
        lowered=_lowered(before, after, view, shared),
    )


def _lines(board: Board | None, view: str) -> dict[str, Line]:
    if board is None or (view != OVERALL and view not in board.by_scenario):
        return {}
    standings = board.standings(view)
    ranked = [line.entry.id for line in standings if line.group == RANKED]
    return {line.entry.id: _line(line, ranked) for line in standings}


def _line(standing: Standing, ranked: Sequence[str]) -> Line:
    id_ = standing.entry.id
    known = {id_, *standing.tied, *standing.better}
    return Line(
        defense=id_,
        group=standing.group,
        rank=standing.rank,
        safety=standing.metrics.get("safety"),
        rung=standing.entry.rung.name if standing.entry.rung else "",
        notes=standing.notes,
        tied=standing.tied,
        better=standing.better,
        worse=tuple(name for name in ranked if name not in known) if standing.rank else (),
    )


def _shown(line: Line) -> tuple[Any, ...]:
    """Return the visible changes of a line; ties are listed apart."""
    numbers = [percent(value) for value in (line.safety.mean, line.safety.low, line.safety.high)] if line.safety else []
    return line.group, line.rank, line.rung, line.notes, *numbers


def _ties(before: Board | None, after: Board | None, view: str, names: Sequence[str]) -> tuple[Tie, ...]:
    if before is None or after is None:
        return ()
    made = []
    for one, other in combinations(names, 2):
        apart = before.separated(view, one, other), after.separated(view, one, other)
        if None not in apart and apart[0] != apart[1]:
            made.append(Tie(one, other, not apart[1]))
    return tuple(made)


def _lowered(before: Board | None, after: Board | None, view: str, names: Sequence[str]) -> tuple[Lowered, ...]:
    if before is None or after is None or not (before.has_best_known or after.has_best_known):
        return ()
    old, new = ({line.entry.id: line for line in board.standings(view)} for board in (before, after))
    made = []
    for name in names:
        one, other = _lowest(view, old[name]), _lowest(view, new[name])
        if one and other and percent(one[0]) != percent(other[0]):
            made.append(Lowered(name, one[0], other[0], other[2], other[1]))
    return tuple(made)


def _lowest(view: str, standing: Standing) -> tuple[Estimate, str, str] | None:
    """Return the lowest known safety with its scenario and submitted attack; without such attacks its own lowest."""
    if standing.best_known:
        return standing.best_known.safety, standing.best_known.scenario, standing.best_known.attack
    if standing.worst:
        return standing.worst[1], standing.worst[0], ""
    safety = standing.metrics.get("safety")
    return (safety, "" if view == OVERALL else view, "") if safety else None


def _attacks(before: Board | None, after: Board | None) -> tuple[AttackLine, ...]:
    known = {(attack.id, attack.base): attack.rung.name for attack in before.submitted_attacks} if before else {}
    fresh = [
        attack
        for attack in (after.submitted_attacks if after else ())
        if known.get((attack.id, attack.base)) != attack.rung.name or attack.rung.previewed
    ]
    return tuple(_attack(attack, after) for attack in fresh if after)


def _attack(attack: SubmittedAttack, board: Board) -> AttackLine:
    hit = tuple(entry.id for entry in board.entries if attack.safety(entry.id) is not None)
    own = [entry.id for entry in board.entries if entry.scenarios[attack.base].metrics]
    spared = tuple(id_ for id_ in own if id_ not in hit)
    return AttackLine(attack.id, attack.base, attack.rung.name, attack.rung.previewed, hit, spared)


def _missing(views: Sequence[ViewDiff], after: Board | None) -> dict[str, tuple[str, ...]]:
    """Return, for new and changed lines without a rank over all, what they lack in which scenarios of the mean."""
    if after is None:
        return {}
    overall = next(view for view in views if view.view == OVERALL)
    lines = [*overall.added, *(changed.after for changed in overall.changed)]
    found = {}
    for line in lines:
        scenarios = after.entry(line.defense).scenarios
        where: dict[str, list[str]] = defaultdict(list)
        for name in after.compared:
            for why in scenarios[name].reasons:
                where[why].append(name)
        if line.rank is None and where:
            found[line.defense] = tuple(f"{', '.join(names)}: {why}" for why, names in where.items())
    return found


def _json(diff: BoardDiff) -> dict[str, Any]:
    return {
        "suite": diff.suite,
        "title": diff.title,
        "changes": not diff.empty,
        "new": diff.new,
        "previewed": dict(diff.methods),
        "views": [
            {
                "view": "overall" if view.view == OVERALL else view.view,
                "added": [_json_line(line) for line in view.added],
                "removed": list(view.removed),
                "changed": [
                    {"before": _json_line(each.before), "after": _json_line(each.after)} for each in view.changed
                ],
                "ties": [{"defenses": [tie.one, tie.other], "tied": tie.tied} for tie in view.ties],
                "best_known": [
                    {
                        "defense": each.defense,
                        "before": each.before.mean,
                        "after": each.after.mean,
                        "attack": each.attack,
                        "scenario": each.scenario,
                    }
                    for each in view.lowered
                ],
            }
            for view in diff.views
            if not view.empty
        ],
        "compared": {"before": list(diff.compared[0]), "after": list(diff.compared[1])},
        "excluded": dict(diff.excluded),
        "attacks": [
            {"id": a.id, "base": a.base, "rung": a.rung, "attacked": list(a.attacked), "not_attacked": list(a.spared)}
            for a in diff.attacks
        ],
        "missing": {name: list(lacking) for name, lacking in diff.missing.items()},
        "notices": list(diff.notices),
    }


def _json_line(line: Line) -> dict[str, Any]:
    safety = line.safety
    numbers = {name: None if safety is None else _number(getattr(safety, name)) for name in ("mean", "low", "high")}
    return {
        "defense": line.defense,
        "group": line.group,
        "rank": line.rank,
        "rung": line.rung,
        "safety": None if safety is None else numbers | {"seeds": safety.count},
        "tied": list(line.tied),
        "better": list(line.better),
        "worse": list(line.worse),
        "notes": list(line.notes),
    }


def _number(value: float) -> float | None:
    return None if value != value else value  # JSON has no nan
