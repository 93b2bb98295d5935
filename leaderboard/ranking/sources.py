"""Whose rows a board shows: which cells are current, and what may stand beside committed ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmark.records.schemas import ORIGIN_LOCAL, ORIGIN_SUBMITTED
from leaderboard.rows.rungs import ATTACK, Rung
from leaderboard.scores.cells import CellScore

COMMITTED, REPRODUCED, OWN, PENDING, ATTACKS = "committed", "submitted", "own", "pending", "attacks"
"""Sources: the project's runs, reproduced submissions, one's own runs, other submissions, and submitted attacks."""


@dataclass(frozen=True)
class Sources:
    """Tells whose rows a cell belongs to, by the rung of each submitted one (by cell key)."""

    rungs: Mapping[str, Rung]

    def name(self, cell: CellScore) -> str:
        """Return the source of a cell."""
        origin = cell.row["origin"]
        if origin != ORIGIN_SUBMITTED:
            return OWN if origin == ORIGIN_LOCAL else COMMITTED
        rung = self.rungs[cell.row["cell_key"]]
        if rung.kind == ATTACK:
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


def current_cells(cells: Sequence[CellScore], sources: Sources) -> tuple[list[CellScore], list[str]]:
    """Return the newest cells of the newest committed protocol and suite version, and what was left out."""
    notices = []
    # A submission decides no version: one made later with an older suite would hide all committed rows.
    ways = (COMMITTED, REPRODUCED, OWN, PENDING, ATTACKS)
    newest = max(next(found for name in ways if (found := sources.of(cells, name))), key=_newest).row
    versions = ("protocol_version", "suite_version")
    kept = [cell for cell in cells if all(cell.row[name] == newest[name] for name in versions)]
    if len(kept) < len(cells):
        others = sorted({f"{c.row['protocol_version']} / {c.row['suite_version']}" for c in cells if c not in kept})
        notices.append(
            f"{len(cells) - len(kept)} cells of another protocol / suite version ({', '.join(others)}) are stored but "
            f"not shown: their scores cannot be compared."
        )
    best: dict[tuple[Any, ...], CellScore] = {}
    for cell in sorted(kept, key=_newest):
        # Nobody's later row takes the place of another's.
        best[(*identity(cell), sources.name(cell), cell.row["attack"])] = cell
    if len(best) < len(kept):
        notices.append(
            f"{len(kept) - len(best)} older rows of cells that were run again with changed code or settings are stored "
            f"but not shown."
        )
    return sorted(best.values(), key=lambda cell: (*identity(cell), cell.row["origin"])), notices


def beside_committed(current: Sequence[CellScore], sources: Sources) -> tuple[list[CellScore], list[str]]:
    """Return the cells of a board, committed ones first, and what was left out.

    Committed rows say which scenarios there are, and what their shape and twins are. Rows of other origins add
    defenses and nothing else, or they could take a scenario, a twin or a score away from others. A submission that is
    not reproduced does not even stand before one's own rows of the same name.
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
