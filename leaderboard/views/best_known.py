"""The best-known attack: a defense's lowest safety under a scenario's own attack and the reproduced submitted ones.

A submitted attack takes a scenario over: the same federation and the same un-attacked twin, another attack. It makes no
scenario of its own, neither in a ranking nor in a mean. For each defense it may lower one number:

    best known(defense, S) = min(safety in S, safety under each reproduced submitted attack on S)
    best known(defense) = min over the compared scenarios S

A defense counts as attacked by it where all seeds of S are scored; otherwise its own value stays, with a remark. As a
minimum of estimates it lies below their expectation, by little where the intervals are narrow: it is a warning, not a
rank.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmark.records.schemas import STATUS_DONE
from leaderboard.rows.catalog import Catalog, settings_of
from leaderboard.rows.rungs import Rung
from leaderboard.scores.cells import CellScore
from leaderboard.scores.stats import Estimate
from leaderboard.scores.summaries import Entry, Scenario, Summary


@dataclass(frozen=True)
class SubmittedAttack:
    """A submitted attack on one scenario.

    Attributes:
        id: Attack id.
        base: The scenario whose attack it replaces.
        scenario: Id under which its cells are stored.
        info: Its row of table ``catalog``.
        rung: How far it was verified.
        summaries: How each defense did under it, over the seeds of ``base``, by defense.
    """

    id: str
    base: str
    scenario: str
    info: Mapping[str, Any]
    rung: Rung
    summaries: Mapping[str, Summary]

    def safety(self, defense: str) -> Estimate | None:
        """Return the safety of a defense under it; ``None`` where the defense was not completely attacked by it."""
        summary = self.summaries.get(defense)
        return summary.metrics.get("safety") if summary is not None and summary.state == STATUS_DONE else None


@dataclass(frozen=True)
class BestKnown:
    """A defense's lowest safety under all attacks of a view.

    Attributes:
        safety: The safety.
        scenario: The scenario in which it is.
        attack: The submitted attack that gave it; empty for the scenario's own.
        spared: Reproduced submitted attacks of the view that have not attacked it completely.
    """

    safety: Estimate
    scenario: str
    attack: str
    spared: tuple[str, ...]


def submitted_attacks(
    cells: Sequence[CellScore],
    scenarios: Mapping[str, Scenario],
    shape: Callable[[CellScore], tuple[Any, ...]],
    shapes: Mapping[str, tuple[Any, ...]],
    catalog: Catalog,
    rungs: Mapping[str, Rung],
    summary: Callable[[str, str, str], Summary],
) -> tuple[tuple[SubmittedAttack, ...], list[str]]:
    """Return the attacks that ``cells`` submit on ``scenarios``, and what was left out.

    Args:
        cells: Submitted cells of attacks.
        scenarios: The attacked scenarios of the board by id.
        shape: Returns what a cell's federation, twin, probes and judge are.
        shapes: The same of the cells of each scenario.
        catalog: Descriptions; the settings of a submitted scenario name the one that it takes over.
        rungs: Rung by cell key.
        summary: Returns the summary of (stored scenario, base, defense).
    """
    found: dict[tuple[str, str], list[CellScore]] = defaultdict(list)
    for cell in cells:
        found[cell.row["attack"], cell.row["scenario"]].append(cell)
    made, notices = [], []
    for (attack, scenario), own in sorted(found.items()):
        version = own[0].row["scenario_version"]
        base = settings_of(catalog.get("scenario", scenario, version)).get("base", "")
        why = ""
        if not isinstance(base, str) or base not in scenarios or scenario in scenarios:
            why = "are on no attacked scenario of the suite"
        elif any(shape(cell) != shapes[base] for cell in own):
            why = f"have another federation, twin, start, probes or judge than {base}"
        if why:
            notices.append(f"{len(own)} cells of the submitted attack {attack} {why} ({scenario}): not shown.")
            continue
        defenses = sorted({cell.row["defense"] for cell in own})
        made.append(
            SubmittedAttack(
                id=attack,
                base=base,
                scenario=scenario,
                info=catalog.get("attack", attack),
                rung=rungs[own[0].row["cell_key"]],
                summaries={defense: summary(scenario, base, defense) for defense in defenses},
            )
        )
    return tuple(made), notices


def best_known(entry: Entry, scenarios: Collection[str], attacks: Sequence[SubmittedAttack]) -> BestKnown | None:
    """Return the lowest safety of ``entry`` in ``scenarios``; ``None`` where it lacks a safety in one of them."""
    counted = [attack for attack in attacks if attack.rung.reproduced and attack.base in scenarios]
    options: list[tuple[Estimate, str, str]] = []
    for name in scenarios:
        own = entry.scenarios[name].metrics.get("safety")
        if own is None:
            return None
        options.append((own, name, ""))
    spared = []
    for attack in counted:
        safety = attack.safety(entry.id)
        if safety is None:
            spared.append(attack.id)
        else:
            options.append((safety, attack.base, attack.id))
    if not options:
        return None
    lowest = min(options, key=lambda option: option[0].mean)  # the first of equals: a scenario's own comes before
    return BestKnown(*lowest, tuple(dict.fromkeys(spared)))
