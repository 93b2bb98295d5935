"""Sources of a board's cells: the version that is shown, its newest cells, and what may stand beside committed ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from benchmark import COMPARABLE_PROTOCOLS, PROTOCOL_VERSION
from benchmark.records.schemas import KIND_ATTACK, ORIGIN_LOCAL, ORIGIN_SUBMITTED
from leaderboard.rows.rungs import Rung
from leaderboard.scores.cells import CellScore

COMMITTED, REPRODUCED, OWN, PENDING, ATTACKS = "committed", "submitted", "own", "pending", "attacks"
"""Sources: the project's runs, reproduced submissions, the reader's own runs, other submissions, submitted attacks."""


@dataclass(frozen=True)
class Sources:
    """Sources of cells, by the rung of each submitted cell (by cell key)."""

    rungs: Mapping[str, Rung]

    def name(self, cell: CellScore) -> str:
        """Return the source of a cell."""
        origin = cell.row["origin"]
        if origin != ORIGIN_SUBMITTED:
            return OWN if origin == ORIGIN_LOCAL else COMMITTED
        rung = self.rungs[cell.row["cell_key"]]
        if rung.kind == KIND_ATTACK:
            return ATTACKS
        return REPRODUCED if rung.reproduced else PENDING

    def of(self, cells: Sequence[CellScore], name: str) -> list[CellScore]:
        """Return the cells of one source."""
        return [cell for cell in cells if self.name(cell) == name]


def identity(cell: CellScore) -> tuple[str, str, str, int]:
    """Return scenario, defense, stage and seed of a cell."""
    return cell.row["scenario"], cell.row["defense"], cell.row["stage"], cell.row["seed"]


def _newest(cell: CellScore) -> tuple[Any, str]:
    return cell.row["created_at"], cell.row["cell_key"]


class Version(NamedTuple):
    """The versions of a cell. Scores of different versions cannot be compared, except for comparable protocols."""

    protocol: str
    suite: str

    def __str__(self) -> str:
        """Return both in words."""
        return f"protocol {self.protocol}, suite version {self.suite}"

    def comparable(self, other: Version) -> bool:
        """Return whether scores of both versions may stand beside each other."""
        same_scores = {PROTOCOL_VERSION, *COMPARABLE_PROTOCOLS}
        protocols = {self.protocol, other.protocol}
        return self.suite == other.suite and (len(protocols) == 1 or protocols <= same_scores)

    @classmethod
    def of(cls, cell: CellScore) -> Version:
        """Return the versions of ``cell``."""
        return cls(cell.row["protocol_version"], cell.row["suite_version"])


def shown_version(cells: Sequence[CellScore], sources: Sources) -> Version:
    """Return the version whose cells a board shows: of this release's protocol if there is one, else the newest.

    Committed cells decide, then those of other sources in order. A submission made later with an older suite must not
    hide the committed rows.
    """
    ways = (COMMITTED, REPRODUCED, OWN, PENDING, ATTACKS)
    deciding = next(chosen for name in ways if (chosen := sources.of(cells, name)))
    return Version.of(max(deciding, key=lambda cell: (Version.of(cell).protocol == PROTOCOL_VERSION, *_newest(cell))))


def version_notices(suite: str, cells: Sequence[CellScore], current: Sequence[CellScore], shown: Version) -> list[str]:
    """Return which cells of a suite are left out because of their version, and that the shown protocol is another.

    Args:
        suite: The suite.
        cells: All its cells.
        current: The newest row of each cell, of versions comparable with ``shown``.
        shown: The version whose cells are shown.
    """
    versions = Counter(map(Version.of, cells))
    left_out = Counter({version: count for version, count in versions.items() if not version.comparable(shown)})
    notices = []
    if left_out:
        parts = ", ".join(f"{count} of {version}" for version, count in sorted(left_out.items()))
        notices.append(
            f"{left_out.total()} cells are stored but not shown, because their scores cannot be compared with those of "
            f"{shown}: {parts}. Run them again with this release, or read them with the release that made them."
        )
    protocols = (Version.of(cell).protocol for cell in current)
    earlier = Counter(protocol for protocol in protocols if protocol in COMPARABLE_PROTOCOLS)
    if earlier:
        parts = ", ".join(f"{count} of protocol {protocol}" for protocol, count in sorted(earlier.items()))
        notices.append(
            f"{earlier.total()} cells of suite {suite} are of an earlier protocol ({parts}), whose scores are those of "
            f"protocol {PROTOCOL_VERSION}. `fedsafety run --suite {suite}` computes them anew."
        )
    elif shown.protocol != PROTOCOL_VERSION:
        notices.append(
            f"The cells of suite {suite} are of protocol {shown.protocol}, and this release computes protocol "
            f"{PROTOCOL_VERSION}. Run them again with `fedsafety run --suite {suite}`, or use the release that made "
            f"them."
        )
    return notices


def current_cells(cells: Sequence[CellScore], sources: Sources, shown: Version) -> tuple[list[CellScore], list[str]]:
    """Return the newest cells of versions comparable with ``shown``, and how many older rows were left out."""
    kept = [cell for cell in cells if Version.of(cell).comparable(shown)]
    best: dict[tuple[Any, ...], CellScore] = {}
    for cell in sorted(kept, key=_newest):
        # A newer row replaces an older one of the same source only.
        best[(*identity(cell), sources.name(cell), cell.row["attack"])] = cell
    notices = []
    if len(best) < len(kept):
        notices.append(
            f"{len(kept) - len(best)} older rows of cells that were run again with changed code or settings are stored "
            f"but not shown."
        )
    return sorted(best.values(), key=lambda cell: (*identity(cell), cell.row["origin"])), notices


def beside_committed(current: Sequence[CellScore], sources: Sources) -> tuple[list[CellScore], list[str]]:
    """Return the cells of a board, committed ones first, and what was left out.

    Committed rows define the scenarios, their shapes and their twins. Rows of other origins add
    defenses and nothing else, or they could take a scenario, a twin or a score away from others. A submission that is
    not reproduced does not even stand before own rows of the same name.
    """
    shown = sources.of(current, COMMITTED)
    shapes = {cell.row["scenario"]: _shape(cell) for cell in shown}
    defenses = {cell.row["defense"] for cell in shown}
    notices = []
    for name in (REPRODUCED, OWN, PENDING):
        cells = sources.of(current, name)
        fresh = [cell for cell in cells if cell.row["defense"] not in defenses]
        if name != OWN and len(fresh) < len(cells):
            whose = "committed" if name == REPRODUCED else "committed or own"
            notices.append(
                f"{len(cells) - len(fresh)} submitted cells are of defenses that have {whose} rows: not shown."
            )
        fits = [not shapes or _shape(cell) == shapes.get(cell.row["scenario"]) for cell in fresh]
        if not all(fits):
            where = sorted({cell.row["scenario"] for cell, fit in zip(fresh, fits, strict=True) if not fit})
            whose = "own" if name == OWN else "submitted"
            notices.append(
                f"{fits.count(False)} {whose} cells are in scenarios that committed rows do not have, or have with "
                f"other settings ({', '.join(where)}): not shown."
            )
        fitting = [cell for cell, fit in zip(fresh, fits, strict=True) if fit]
        shown += fitting
        defenses |= {cell.row["defense"] for cell in fitting}
    return shown, notices


def _shape(cell: CellScore) -> tuple[Any, ...]:
    """Return what a scenario's cells have in common."""
    return (cell.row["scenario"], cell.row["scenario_version"], cell.row["attack"], *federation(cell))


def federation(cell: CellScore) -> tuple[Any, ...]:
    """Return what a scenario's cells have in common with those of another attack on it."""
    return tuple(cell.row[name] for name in ("twin", *FEDERATION_SHAPE, "start_digest", "probe_set", "primary_judge"))


FEDERATION_SHAPE = ("clients", "participants", "malicious", "declared_malicious", "rounds", "start_model")
"""The federation's shape, from the rows."""
