"""The best-known attack: a defense's lowest safety under a scenario's own attack and the reproduced submitted ones.

A submitted attack replaces the attack of a scenario and keeps the federation and the un-attacked twin. The result is
not a scenario of its own, neither in a ranking nor in a mean. For each defense it may lower one number:

    best known(defense, S) = min(safety in S, safety under each reproduced submitted attack on S)
    best known(defense) = min over the compared scenarios S

A submitted attack counts for a defense where all seeds of S are scored. Otherwise the defense keeps its safety in S,
with a remark. A minimum of estimates is biased downwards, by little where the intervals are narrow, so the number is a
warning and not a rank.
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
        rung: Verification that it reached.
        summaries: Summary of each defense under it, over the seeds of ``base``, by defense.
    """

    id: str
    base: str
    scenario: str
    info: Mapping[str, Any]
    rung: Rung
    summaries: Mapping[str, Summary]

    def safety(self, defense: str) -> Estimate | None:
        """Return the safety of a defense under the attack; ``None`` unless every seed is scored."""
        summary = self.summaries.get(defense)
        return summary.metrics.get("safety") if summary is not None and summary.state == STATUS_DONE else None


@dataclass(frozen=True)
class BestKnown:
    """A defense's lowest safety under all attacks of a view.

    Attributes:
        safety: The safety.
        scenario: The scenario with that safety.
        attack: The submitted attack with that safety; empty for the scenario's own.
        spared: Reproduced submitted attacks of the view that lack a score of the defense.
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
    """Return the attacks that ``cells`` submit on ``scenarios``, and a notice for each group of cells left out.

    Args:
        cells: Submitted cells of attacks.
        scenarios: The attacked scenarios of the board by id.
        shape: Returns the federation, twin, probes and judge of a cell.
        shapes: These of the cells of each scenario.
        catalog: Descriptions; the settings of a submitted scenario name the one that it takes over.
        rungs: Rung by cell key.
        summary: Returns the summary of (stored scenario, base, defense).
    """
    found: dict[tuple[str, str], list[CellScore]] = defaultdict(list)
    for cell in cells:
        found[cell.row["attack"], cell.row["scenario"]].append(cell)
    attacks, notices = [], []
    for (attack, scenario), group in sorted(found.items()):
        version = group[0].row["scenario_version"]
        base = settings_of(catalog.get("scenario", scenario, version)).get("base", "")
        reason = ""
        if not isinstance(base, str) or base not in scenarios or scenario in scenarios:
            reason = "are on no attacked scenario of the suite"
        elif any(shape(cell) != shapes[base] for cell in group):
            reason = f"have another federation, twin, start, probes or judge than {base}"
        if reason:
            notices.append(f"{len(group)} cells of the submitted attack {attack} {reason} ({scenario}): not shown.")
            continue
        defenses = sorted({cell.row["defense"] for cell in group})
        attacks.append(
            SubmittedAttack(
                id=attack,
                base=base,
                scenario=scenario,
                info=catalog.get("attack", attack),
                rung=rungs[group[0].row["cell_key"]],
                summaries={defense: summary(scenario, base, defense) for defense in defenses},
            )
        )
    return tuple(attacks), notices


def best_known(entry: Entry, scenarios: Collection[str], attacks: Sequence[SubmittedAttack]) -> BestKnown | None:
    """Return the lowest safety of ``entry`` in ``scenarios``; ``None`` where it lacks a safety in one of them."""
    counted = [attack for attack in attacks if attack.rung.reproduced and attack.base in scenarios]
    options: list[tuple[Estimate, str, str]] = []
    for name in scenarios:
        base = entry.scenarios[name].metrics.get("safety")
        if base is None:
            return None
        options.append((base, name, ""))
    spared = []
    for attack in counted:
        safety = attack.safety(entry.id)
        if safety is None:
            spared.append(attack.id)
        else:
            options.append((safety, attack.base, attack.id))
    if not options:
        return None
    lowest = min(options, key=lambda option: option[0].mean)  # of equals the first: a scenario's own attack
    return BestKnown(*lowest, tuple(dict.fromkeys(spared)))
