"""Titles, descriptions and sources of methods, scenarios and suites, as stored beside the rows."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from benchmark.records.schemas import KIND_ATTACK, KIND_DEFENSE
from benchmark.records.tuned import tuned_scenarios
from leaderboard.rows.rows import Rows


class Catalog:
    """Titles, descriptions and sources as stored beside the rows.

    Methods change over time and a store only grows, so one id may have several rows: the row of the asked version is
    shown, else the first in canonical order, published before pending before local, with a notice in :attr:`notices`.

    Attributes:
        notices: Remarks on ids with several rows.
        tuned: Ids of the scenarios with a tuned attack.
    """

    def __init__(self, rows: Rows) -> None:
        self.notices: list[str] = []
        self.tuned: set[str] = set()
        self._entries: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
        for part in (rows.published, rows.pending, rows.local):
            seen: dict[tuple[str, str], set[tuple[str, ...]]] = defaultdict(set)
            rows_of_part = part.catalog.to_pylist()
            # What an earlier part describes is what that part states it to be.
            self.tuned |= {name for name in tuned_scenarios(rows_of_part) if ("scenario", name) not in self._entries}
            for row in rows_of_part:
                seen[row["kind"], row["id"]].add((row["title"], row["description"], row["settings"]))
                self._entries[row["kind"], row["id"]].append(row)
            # A scenario with a tuned attack has one description for each search that was made.
            several = sorted(
                f"{kind} {id_}"
                for (kind, id_), texts in seen.items()
                if len(texts) > 1 and (kind != "scenario" or id_ not in self.tuned)
            )
            if several:
                self.notices.append(
                    f"Several descriptions or settings are stored, those of the scores' version or else the first are "
                    f"shown: {', '.join(several)}."
                )

        self._alike = _alike(self._entries)

    def get(self, kind: str, id_: str, version: str = "") -> Mapping[str, Any]:
        """Return the catalog row, if possible one of ``version``, or one that shows the bare id.

        Where two methods have one title, each title has the id behind it.
        """
        empty = dict.fromkeys(("description", "paper", "stages", "knowledge", "resources", "settings"), "")
        fallback = {
            **empty,
            "kind": kind,
            "id": id_,
            "title": id_,
            "position": 10**6,
            "ranked": True,
            "source_digest": "",
        }
        entries = self._entries.get((kind, id_), [fallback])
        row = next((row for row in entries if _version(row) == version), entries[0])
        return {**row, "title": f"{row['title']} ({id_})"} if (kind, id_) in self._alike else row

    def position(self, kind: str, id_: str) -> tuple[int, str]:
        """Return a sort key: the suite's order, then the id."""
        return int(self.get(kind, id_)["position"]), id_


def settings_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a catalog row's settings; empty if it has none or they are not a JSON object (shown as they are)."""
    try:
        loaded = json.loads(row["settings"] or "{}")
    except json.JSONDecodeError:
        return {}
    return loaded if isinstance(loaded, dict) else {}


def _alike(entries: Mapping[tuple[str, str], Sequence[Mapping[str, Any]]]) -> frozenset[tuple[str, str]]:
    """Return kind and id of the methods that share a title with another, case and blanks aside."""
    titles: dict[tuple[str, str], set[tuple[str, str]]] = defaultdict(set)
    for (kind, id_), rows in entries.items():
        if kind in (KIND_ATTACK, KIND_DEFENSE):
            for row in rows:
                titles[kind, "".join(row["title"].split()).casefold()].add((kind, id_))
    return frozenset(method for methods in titles.values() if len(methods) > 1 for method in methods)


def _version(row: Mapping[str, Any]) -> str:
    """Return the version in a catalog row's settings; empty if they have none."""
    version = settings_of(row).get("version", "")
    return version if isinstance(version, str) else ""
