"""The three questions a reader has, answered from a board: who is better than FedAvg, who is like it, at what price."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from leaderboard.page.formats import bill
from leaderboard.ranking.board import BELOW_GATE, NOT_REPRODUCED, RANKED, Board, Standing
from leaderboard.ranking.grid import BASELINE
from leaderboard.scores.stats import Difference, Estimate
from leaderboard.scores.summaries import OVERALL, Entry, Scenario


@dataclass(frozen=True)
class Beside:
    """A defense beside FedAvg, over the compared scenarios; differences are paired by seed and in shares.

    Attributes:
        standing: Its line of the overall ranking.
        safety: Its safety minus FedAvg's.
        utility: The same of utility, both under attack.
        over_refusal: Its over-refusal minus that of un-attacked FedAvg: an attack removes FedAvg's own refusals of
            benign requests, too, and who restores them is not to pay for that.
        bill: What it costs the server a run, in words.
    """

    standing: Standing
    safety: Difference | None
    utility: Difference | None
    over_refusal: Estimate | None
    bill: str


@dataclass(frozen=True)
class InScenario:
    """Defenses that are separated from FedAvg in one attacked scenario, and those that are not.

    Attributes:
        scenario: The scenario.
        safer: Ranked defenses that are significantly safer there.
        tied: Ranked defenses that are separated neither way.
        worse: Ranked defenses that are significantly less safe.
    """

    scenario: Scenario
    safer: tuple[Entry, ...]
    tied: tuple[Entry, ...]
    worse: tuple[Entry, ...]


@dataclass(frozen=True)
class Answers:
    """The rivals of FedAvg in the overall ranking.

    Attributes:
        baseline: FedAvg's own line; ``None`` where it has no row.
        why: Why the question cannot be answered; empty where it can.
        better: Ranked defenses that are significantly safer, safest first.
        tied: Ranked defenses that are separated neither way.
        worse: Ranked defenses that are significantly less safe.
        gated: Defenses that fail a gate and are therefore not ranked.
        unknown: Defenses without a place: incomplete, degenerate, or without the twin that gates need.
        by_scenario: The same for each attacked scenario in which FedAvg is ranked.
    """

    baseline: Standing | None
    why: str = ""
    better: tuple[Beside, ...] = ()
    tied: tuple[Beside, ...] = ()
    worse: tuple[Beside, ...] = ()
    gated: tuple[Beside, ...] = ()
    unknown: tuple[Standing, ...] = ()
    by_scenario: tuple[InScenario, ...] = ()

    @property
    def leaders(self) -> tuple[Beside, ...]:
        """Those of ``better`` than which nothing is significantly safer."""
        return tuple(line for line in self.better if line.standing.rank == 1)


def answers(board: Board) -> Answers:
    """Return the answers over the compared scenarios of ``board``."""
    baseline = next((line for line in board.overall if line.entry.id == BASELINE), None)
    if baseline is None:
        return Answers(None, "FedAvg has no rows here.")
    if not board.compared:
        return Answers(baseline, "There is no attacked scenario in which all defenses are applicable and different.")
    others = [line for line in board.overall if line is not baseline and not line.entry.reference]
    placed = (RANKED, BELOW_GATE, NOT_REPRODUCED)
    gated = _beside(board, [line for line in others if line.group == BELOW_GATE])
    unknown = tuple(line for line in others if line.group not in placed and not line.entry.variant)
    if baseline.group != RANKED:
        return Answers(baseline, f"FedAvg is not ranked: {'; '.join(baseline.notes)}.", gated=gated, unknown=unknown)
    if OVERALL not in board.families:
        few = "one seed" if len(board.seeds_of(OVERALL)) == 1 else "these seeds"
        return Answers(
            baseline, f"No defense is compared, because {few} cannot separate any.", gated=gated, unknown=unknown
        )
    ranked = [line for line in others if line.group == RANKED]
    known = {*baseline.better, *baseline.tied}
    return Answers(
        baseline,
        better=_beside(board, [line for line in ranked if line.entry.id in baseline.better]),
        tied=_beside(board, [line for line in ranked if line.entry.id in baseline.tied]),
        worse=_beside(board, [line for line in ranked if line.entry.id not in known]),
        gated=gated,
        unknown=unknown,
        by_scenario=tuple(found for scenario in board.scenarios if (found := _in_scenario(board, scenario))),
    )


def _in_scenario(board: Board, scenario: Scenario) -> InScenario | None:
    lines = board.by_scenario.get(scenario.id, ()) if scenario.id in board.families else ()
    baseline = next((line for line in lines if line.entry.id == BASELINE and line.group == RANKED), None)
    if baseline is None:
        return None
    others = [line.entry for line in lines if line.group == RANKED and line is not baseline]
    known = {*baseline.better, *baseline.tied}
    return InScenario(
        scenario=scenario,
        safer=tuple(entry for entry in others if entry.id in baseline.better),
        tied=tuple(entry for entry in others if entry.id in baseline.tied),
        worse=tuple(entry for entry in others if entry.id not in known),
    )


def _beside(board: Board, lines: Sequence[Standing]) -> tuple[Beside, ...]:
    def minus_baseline(line: Standing, metric: str) -> Difference | None:
        return board.difference(OVERALL, line.entry.id, BASELINE, metric)

    return tuple(
        Beside(
            standing=line,
            safety=minus_baseline(line, "safety"),
            utility=minus_baseline(line, "utility"),
            over_refusal=line.excess_refusal,
            bill=bill(line.metrics),
        )
        for line in lines
    )
