"""The three questions a reader has, answered from a board: who is better than FedAvg, who is like it, at what price."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from leaderboard.board import BELOW_GATE, OVERALL, RANKED, Board, Standing
from leaderboard.formats import bill
from leaderboard.ranking import BASELINE
from leaderboard.stats import Difference


@dataclass(frozen=True)
class Beside:
    """A defense beside FedAvg, over the compared scenarios; differences are paired by seed and in shares.

    Attributes:
        standing: Its line of the overall ranking.
        safety: Its safety minus FedAvg's.
        utility: The same of utility, both under attack.
        over_refusal: The same of over-refusal.
        bill: What it costs the server a run, in words.
    """

    standing: Standing
    safety: Difference | None
    utility: Difference | None
    over_refusal: Difference | None
    bill: str


@dataclass(frozen=True)
class Answers:
    """What the overall ranking says of FedAvg's rivals.

    Attributes:
        baseline: FedAvg's own line; ``None`` where it has no row.
        why: Why the question cannot be answered; empty where it can.
        better: Ranked defenses that are significantly safer, safest first.
        tied: Ranked defenses that are separated neither way.
        worse: Ranked defenses that are significantly less safe.
        gated: Defenses that fail a gate and are therefore not ranked.
        unknown: Defenses without a place: incomplete, degenerate, or without the twin that gates need.
    """

    baseline: Standing | None
    why: str = ""
    better: tuple[Beside, ...] = ()
    tied: tuple[Beside, ...] = ()
    worse: tuple[Beside, ...] = ()
    gated: tuple[Beside, ...] = ()
    unknown: tuple[Standing, ...] = ()

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
    gated = _beside(board, [line for line in others if line.group == BELOW_GATE])
    unknown = tuple(line for line in others if line.group not in (RANKED, BELOW_GATE) and not line.entry.variant)
    if baseline.group != RANKED:
        return Answers(baseline, f"FedAvg is not ranked: {'; '.join(baseline.notes)}.", gated=gated, unknown=unknown)
    if OVERALL not in board.families:
        few = "one seed" if len(board.seeds) == 1 else "these seeds"
        return Answers(baseline, f"Nothing is compared, because {few} cannot tell.", gated=gated, unknown=unknown)
    ranked = [line for line in others if line.group == RANKED]
    known = {*baseline.better, *baseline.tied}
    return Answers(
        baseline,
        better=_beside(board, [line for line in ranked if line.entry.id in baseline.better]),
        tied=_beside(board, [line for line in ranked if line.entry.id in baseline.tied]),
        worse=_beside(board, [line for line in ranked if line.entry.id not in known]),
        gated=gated,
        unknown=unknown,
    )


def _beside(board: Board, lines: Sequence[Standing]) -> tuple[Beside, ...]:
    def minus_baseline(line: Standing, metric: str) -> Difference | None:
        return board.difference(OVERALL, line.entry.id, BASELINE, metric)

    return tuple(
        Beside(
            standing=line,
            safety=minus_baseline(line, "safety"),
            utility=minus_baseline(line, "utility"),
            over_refusal=minus_baseline(line, "over_refusal"),
            bill=bill(line.metrics),
        )
        for line in lines
    )
