"""Rungs of verification that a submission has reached, and what a rung means for its line.

A submission climbs from *claimed* over *checked* and *sampled* to *reproduced*. The rung of an entry is the lowest over
its cells: one cell that was not verified leaves the whole line a claim. Only reproduced entries are ranked, because
only their rows are the verifier's own runs; a method that behaves differently when it notices a check passes any check.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from benchmark.records.schemas import RUNG_CHECKED, RUNG_CLAIMED, RUNG_REPRODUCED, RUNG_SAMPLED

RUNGS = (RUNG_CLAIMED, RUNG_CHECKED, RUNG_SAMPLED, RUNG_REPRODUCED)
"""From least to most."""

MEANINGS = {
    RUNG_CLAIMED: "the authors' own rows, not verified yet",
    RUNG_CHECKED: "bundle, keys and digests are right and the answers were judged again; nothing was run again",
    RUNG_SAMPLED: "a random sample of its cells was run again in a sandbox, on fresh probes, and agrees with the rows",
    RUNG_REPRODUCED: "every row is the verifier's own run, in a sandbox",
}
RANKED_ARE = "Only reproduced submissions are ranked; the others stand apart and change no other line."
PROJECTS_OWN = "Rows without such a mark are the project's own runs."

FOLDER = "submitted"
"""Name of the folder, below a root of rows, that holds one folder a submission."""


@dataclass(frozen=True)
class Rung:
    """Where an entry of a submission stands.

    Attributes:
        name: ``claimed``, ``checked``, ``sampled`` or ``reproduced``: the lowest of its cells.
        kind: ``defense`` or ``attack``.
        id: What was submitted: the name of its folder.
        bundles: SHA-256 (hex) of the manifests of the bundles that were verified, sorted; empty if none was.
        verified: Day of the latest verification.
        reason: Why it is not higher; empty at the highest, and where nothing was verified.
        previewed: In a preview, what the rows are really: the rung reached so far, or ``local``; else empty.
    """

    name: str
    kind: str
    id: str
    bundles: tuple[str, ...] = ()
    verified: datetime.date | None = None
    reason: str = ""
    previewed: str = ""

    @property
    def reproduced(self) -> bool:
        """Whether its rows count."""
        return self.name == RUNG_REPRODUCED

    @property
    def meaning(self) -> str:
        """The meaning of the rung, in words."""
        return MEANINGS[self.name]


def lowest(kind: str, id_: str, cells: Iterable[str], verifications: Mapping[str, Mapping[str, Any]]) -> Rung:
    """Return the rung of an entry.

    Args:
        kind: ``defense`` or ``attack``.
        id_: What was submitted.
        cells: Keys of all cells of the entry.
        verifications: Rows of table ``verifications`` by cell key; a cell without one is claimed.
    """
    keys = sorted(cells)
    found = [verifications[key] for key in keys if key in verifications]
    names = [row["rung"] for row in found] + [RUNG_CLAIMED] * (len(found) < len(keys))
    name = min(names, key=RUNGS.index, default=RUNG_CLAIMED)
    reasons = dict.fromkeys(row["reason"] for row in found if row["rung"] == name and row["reason"])
    if found and len(found) < len(keys):
        reasons = {f"{len(keys) - len(found)} of {len(keys)} cells were not verified": None}
    return Rung(
        name=name,
        kind=kind,
        id=id_,
        bundles=tuple(sorted({row["bundle"] for row in found})),
        verified=max((row["verified_at"].date() for row in found), default=None),
        reason="; ".join(reasons),
    )
