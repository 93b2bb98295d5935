"""Prompts that evaluation and training rows, or the rows of two roles, share, found by normalised-text hash.

A row is compared with its input and, if it has an input, also by its instruction alone, because a text beside a
question does not change the question. Two rows that both have inputs and share only the instruction are different.

A shared prompt stays with the first of these owners: evaluation, the alignment of the start model, the server
(defender), attackers, honest clients. The suite chooses whether the rows of later owners are left out, reported, or
refused.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import combinations
from typing import Final

import numpy as np
import numpy.typing as npt

from benchmark.errors import FedSafetyError, InputsMissingError
from tasks.hub.datasets import Rows, load_rows
from tasks.hub.settings import DataChoice, HubData
from tasks.hub.text import LOSSES

_EXAMPLES: Final = 3
NOBODY: Final = "-"
"""Owner, in reports, of a set that no role uses."""


class Owner(IntEnum):
    """Owner of a set of rows. A shared prompt stays with the lowest owner."""

    EVALUATION = 0
    ALIGNMENT = 1
    DEFENDER = 2
    ATTACKER = 3
    CLIENTS = 4


OWNERS: Final = {
    "unaligned": Owner.ATTACKER,
    "refusals": Owner.CLIENTS,
    "aligned": Owner.DEFENDER,
    "normal": Owner.DEFENDER,
    "contrast": Owner.DEFENDER,
}
"""Role of :class:`tasks.hub.settings.DataChoice` → owner. All other roles belong to honest clients."""


@dataclass(frozen=True)
class RowSet:
    """A named set of rows: ``pool/<name>``, ``probes/<name>`` or ``development/<name>``."""

    name: str
    owner: Owner | None
    """``None`` for a pool that is not assigned to a role."""
    rows: Rows


@dataclass(frozen=True)
class Overlap:
    """Prompts that two sets share.

    Attributes:
        first: Set of the owner that comes first.
        second: Set of the later owner.
        shared: Number of distinct shared prompts.
        examples: Hashes of the first shared prompts, in hexadecimal, because the prompts may be harmful.
        conflict: Whether the two sets belong to different owners.
    """

    first: str
    second: str
    shared: int
    examples: tuple[str, ...]
    conflict: bool


@dataclass(frozen=True)
class OverlapReport:
    """All overlaps among sets of rows, and the rows that are left out.

    Attributes:
        policy: ``remove``, ``report`` or ``refuse``.
        sets: Name, owner, rows and distinct prompts of every set.
        overlaps: Pairs of sets that share prompts.
        removed: Set → number of rows left out.
    """

    policy: str
    sets: tuple[tuple[str, str, int, int], ...]
    overlaps: tuple[Overlap, ...]
    removed: Mapping[str, int] = field(default_factory=dict)

    @property
    def conflicts(self) -> tuple[Overlap, ...]:
        """Overlaps between different owners."""
        return tuple(overlap for overlap in self.overlaps if overlap.conflict)

    def text(self) -> str:
        """Return the report for a terminal."""
        width = max((len(name) for name, *_ in self.sets), default=0)
        # Pools without a role lose no rows. The rows left out are listed for each scenario.
        assigned = any(owner != NOBODY and name.startswith("pool/") for name, owner, *_ in self.sets)
        left = {name: f"  {self.removed.get(name, 0):>8,}" if assigned else "" for name, *_ in self.sets}
        title = f"{'set':<{width}}  {'owner':<10}  {'rows':>9}  {'distinct':>9}"
        lines = [title + (f"  {'left out':>8}" if assigned else "")]
        for name, owner, rows, distinct in self.sets:
            lines.append(f"{name:<{width}}  {owner:<10}  {rows:>9,}  {distinct:>9,}{left[name]}")
        if not self.overlaps:
            return "\n".join([*lines, "", "No two sets share a prompt."])
        owners = {name: owner for name, owner, *_ in self.sets}
        lines += ["", f"Shared prompts; policy: {self.policy}"]
        for pair in self.overlaps:
            note = "  (one owner)" if not pair.conflict and owners[pair.first] != NOBODY else ""
            lines.append(f"  {pair.shared:>7,}  {pair.first} and {pair.second}{note}  e.g. {', '.join(pair.examples)}")
        return "\n".join(lines)


def row_sets(data: HubData, choice: DataChoice | None, aligned: Collection[str] = ()) -> list[RowSet]:
    """Return the sets that a choice and an alignment use, evaluation first. Without both, return all sets of the suite.

    Args:
        data: Pools and probe sets.
        choice: Pools of the roles of a scenario.
        aligned: Pools of the alignment. A pool of the alignment that the server uses, too, belongs to the alignment.

    Raises:
        InputsMissingError: A data set is not on this machine and cannot be downloaded.
    """
    probes = [RowSet(f"probes/{probe.id}", Owner.EVALUATION, load_rows(probe.source)) for probe in data.probes]
    # The settings are chosen by these prompts, so that no training row may hold them either.
    probes += [
        RowSet(f"development/{name}", Owner.EVALUATION, load_rows(source))
        for name, source in sorted(data.development.items())
    ]
    if choice is None and not aligned:
        return probes + [RowSet(f"pool/{name}", None, load_rows(source)) for name, source in sorted(data.pools.items())]
    owners: dict[str, Owner] = dict.fromkeys(aligned, Owner.ALIGNMENT)
    for role, pool in choice.pools.items() if choice else ():
        owner = OWNERS.get(role, Owner.CLIENTS)
        owners[pool] = min(owner, owners.get(pool, owner))
    used = [RowSet(f"pool/{pool}", owner, load_rows(data.pools[pool])) for pool, owner in owners.items()]
    return probes + sorted(used, key=lambda pool: (pool.owner or 0, pool.name))


def find_overlaps(sets: Sequence[RowSet], policy: str) -> OverlapReport:
    """Return the overlaps of ``sets``. Sets without an owner are compared and lose no rows."""
    distinct = {one.name: np.unique(one.rows.hashes) for one in sets}
    known = {one.name: np.union1d(distinct[one.name], one.rows.hashes_alone) for one in sets}
    overlaps = []
    for first, second in combinations(sets, 2):
        shared = np.union1d(
            np.intersect1d(distinct[first.name], known[second.name], assume_unique=True),
            np.intersect1d(known[first.name], distinct[second.name], assume_unique=True),
        )
        if len(shared):
            examples = tuple(f"{value:016x}" for value in shared[:_EXAMPLES])
            conflict = first.owner is not second.owner
            overlaps.append(Overlap(first.name, second.name, len(shared), examples, conflict))
    described = tuple(
        (one.name, NOBODY if one.owner is None else one.owner.name.lower(), len(one.rows), len(distinct[one.name]))
        for one in sets
    )
    removed = {one.name: int((~kept_mask(one, sets)).sum()) for one in sets} if policy == "remove" else {}
    return OverlapReport(policy, described, tuple(overlaps), {name: count for name, count in removed.items() if count})


def kept_mask(one: RowSet, sets: Sequence[RowSet]) -> npt.NDArray[np.bool_]:
    """Return a mask of the rows of a set whose prompts no earlier owner has."""
    earlier = [
        other.rows for other in sets if one.owner is not None and other.owner is not None and other.owner < one.owner
    ]
    if not earlier:
        return np.ones(len(one.rows), dtype=bool)
    whole = np.unique(np.concatenate([rows.hashes for rows in earlier]))
    known = np.union1d(whole, np.concatenate([rows.hashes_alone for rows in earlier]))
    return ~(np.isin(one.rows.hashes, known) | np.isin(one.rows.hashes_alone, whole))


def refuse_conflicts(report: OverlapReport) -> None:
    """Refuse prompts that roles share if the suite's policy is ``refuse``.

    Raises:
        FedSafetyError: The policy is ``refuse`` and two owners share a prompt.
    """
    if report.policy == "refuse" and report.conflicts:
        pairs = "; ".join(f"{pair.first} and {pair.second}: {pair.shared}" for pair in report.conflicts)
        raise FedSafetyError(
            f"data of different roles share prompts ({pairs}); choose other data, or set overlaps to remove or report"
        )


def suite_overlaps(
    data: HubData, choices: Mapping[str, DataChoice], aligned: Mapping[str, Collection[str]] | None = None
) -> str:
    """Return the printable report of a suite: all pairs of its sets, then the rows that each scenario leaves out.

    Missing sets are listed, and the remaining sets are compared.

    Args:
        data: Pools and probe sets.
        choices: Scenario → its choice of pools. Scenarios with the same choice share a paragraph.
        aligned: Scenario → pools of the alignment of its start model; none for scenarios that start unaligned.

    Raises:
        FedSafetyError: A data set cannot be read.
    """
    missing = _missing(data)
    pools = {name: source for name, source in data.pools.items() if f"pool/{name}" not in missing}
    probes = tuple(probe for probe in data.probes if f"probes/{probe.id}" not in missing)
    here = data.model_copy(update={"pools": pools, "probes": probes})
    parts = [find_overlaps(row_sets(here, None), data.overlaps).text()]
    parts.append(f"Prompts are compared by their normal form. {LOSSES}")
    parts += [f"not compared: {name}: {reason}" for name, reason in missing.items()]
    groups: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for scenario, choice in choices.items():
        pools_aligned = tuple((aligned or {}).get(scenario, ()))
        groups.setdefault((choice.model_dump_json(), pools_aligned), []).append(scenario)
    for (choice_json, pools_aligned), scenarios in groups.items():
        verdict = _verdict(data, DataChoice.model_validate_json(choice_json), pools_aligned, missing)
        parts.append(f"{', '.join(scenarios)}\n  {verdict}")
    return "\n\n".join(parts)


def _missing(data: HubData) -> dict[str, str]:
    """Return the names of missing sets, each with the reason."""
    sources = {f"probes/{probe.id}": probe.source for probe in data.probes}
    sources |= {f"pool/{name}": source for name, source in sorted(data.pools.items())}
    missing = {}
    for name, source in sources.items():
        try:
            load_rows(source)
        except InputsMissingError as error:
            missing[name] = str(error)
    return missing


def _verdict(data: HubData, choice: DataChoice, aligned: Collection[str], missing: Mapping[str, str]) -> str:
    """Return a sentence about the shared prompts of a scenario with this choice and these pools of its alignment."""
    pools = {*choice.pools.values(), *aligned}
    names = [f"probes/{probe.id}" for probe in data.probes] + sorted(f"pool/{pool}" for pool in pools)
    if absent := [name for name in names if name in missing]:
        return f"not known without {', '.join(absent)}"
    report = find_overlaps(row_sets(data, choice, aligned), data.overlaps)
    left_out = ", ".join(f"{count:,} rows of {name}" for name, count in report.removed.items())
    between = "; ".join(f"{pair.first} and {pair.second} {pair.shared:,}" for pair in report.conflicts)
    return {
        "remove": f"left out: {left_out or 'nothing'}",
        "report": f"kept, although shared between roles: {between or 'nothing'}",
        "refuse": f"refused for: {between}" if between else "nothing shared between roles",
    }[data.overlaps]
