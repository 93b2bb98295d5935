"""Stages of defenses beside FedAvg: defenses grouped by when they act, in each attacked scenario."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from leaderboard.ranking.board import RANKED, Board, Standing
from leaderboard.ranking.grid import BASELINE
from leaderboard.scores.stats import Difference, paired
from leaderboard.scores.summaries import Scenario
from leaderboard.views.tuned import Search, WorstTuned

STAGES = {
    "prepare": "Before the first round",
    "aggregate": "In the rounds",
    "finalize": "After the last round",
    "serve": "When serving",
}
"""Title of each stage, in order of time. Defenses that act at more than one stage have a line of their own."""

SEVERAL = "At several stages"
"""Title of the line of defenses that act at more than one stage."""


@dataclass(frozen=True)
class StageLine:
    """The ranked defenses of one stage in one scenario, without FedAvg.

    Attributes:
        title: Title of the stage.
        defenses: How many there are.
        safer: Those that are significantly safer than FedAvg, safest first; empty where nothing is compared.
        compared: Whether the seeds allow a comparison.
        mean: Mean over the defenses of the stage, minus FedAvg, paired by seed.
        safest: The defense of the largest mean safety.
        gain: Its safety minus FedAvg's, paired by seed.
    """

    title: str
    defenses: int
    safer: tuple[Standing, ...]
    compared: bool
    mean: Difference
    safest: Standing
    gain: Difference | None


@dataclass(frozen=True)
class StagesIn:
    """The lines of one attacked scenario."""

    scenario: Scenario
    lines: tuple[StageLine, ...]


@dataclass(frozen=True)
class TunedLine:
    """A ranked defense under the attack that a search tuned against it in a scenario.

    Attributes:
        scenario: The scenario.
        title: Title of the defense's stage.
        standing: Its standing in the scenario.
        worst: Its lowest safety there, under the scenario's own attack and the tuned one.
    """

    scenario: Scenario
    title: str
    standing: Standing
    worst: WorstTuned

    @property
    def search(self) -> Search:
        """The one search of the scenario."""
        (search,) = self.worst.searches
        return search


def tuned_lines(board: Board) -> tuple[TunedLine, ...]:
    """Return the ranked defenses with a search that counts, by scenario, stage and what is left of their safety."""
    titles = [*STAGES.values(), SEVERAL]

    def place(line: TunedLine) -> tuple[int, float, str]:
        return titles.index(line.title), -line.worst.safety.mean, line.standing.entry.id

    return tuple(
        line
        for scenario in board.scenarios
        for line in sorted(
            (
                TunedLine(scenario, _title(standing.entry.info["stages"]), standing, standing.worst_tuned)
                for standing in board.by_scenario.get(scenario.id, ())
                if standing.group == RANKED and standing.worst_tuned is not None
            ),
            key=place,
        )
    )


def stages(board: Board) -> tuple[StagesIn, ...]:
    """Return the stages in each attacked scenario in which FedAvg and another defense are ranked."""
    found = (StagesIn(scenario, _lines(board, scenario.id)) for scenario in board.scenarios if scenario.attacked)
    return tuple(one for one in found if one.lines)


def _lines(board: Board, view: str) -> tuple[StageLine, ...]:
    ranked = [line for line in board.by_scenario.get(view, ()) if line.group == RANKED]
    if BASELINE not in {line.entry.id for line in ranked}:
        return ()
    by_title: dict[str, list[Standing]] = {title: [] for title in (*STAGES.values(), SEVERAL)}
    for line in ranked:
        if line.entry.id != BASELINE:
            by_title[_title(line.entry.info["stages"])].append(line)
    return tuple(_line(board, view, title, lines) for title, lines in by_title.items() if lines)


def _title(names: str) -> str:
    acting = [name for name in names.split(",") if name]
    # Without a stage a method aggregates by the default rule.
    return SEVERAL if len(acting) > 1 else STAGES.get(acting[0] if acting else "aggregate", SEVERAL)


def _line(board: Board, view: str, title: str, lines: Sequence[Standing]) -> StageLine:
    lines = sorted(lines, key=lambda line: (-line.metrics["safety"].mean, line.entry.id))
    values = [board.values(view, line.entry.id) for line in lines]
    fedavg = board.values(view, BASELINE)
    seeds = sorted(set(fedavg).intersection(*values))
    means = [statistics.fmean(by_seed[seed] for by_seed in values) for seed in seeds]
    probes = min(
        board.entry(name).scenarios[view].probes("safety") for name in (BASELINE, *(line.entry.id for line in lines))
    )
    return StageLine(
        title=title,
        defenses=len(lines),
        safer=tuple(
            line
            for line, by_seed in zip(lines, values, strict=True)
            if board.separated(view, line.entry.id, BASELINE)
            and statistics.fmean(by_seed[seed] - fedavg[seed] for seed in seeds) > 0
        ),
        compared=view in board.families,
        mean=paired(means, [fedavg[seed] for seed in seeds], probes),
        safest=lines[0],
        gain=board.difference(view, lines[0].entry.id, BASELINE),
    )
