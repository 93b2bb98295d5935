"""Judges of the kinds of probes: one judge a kind for all cells of a suite.

Harmful probes are scored by the suite's primary judge. Over-refusal and utility probes are scored by the judge that the
suite names in ``judge_of``; else by the first judge that has judged the kind: the primary judge, then the suite's list
of judges in order. The first group of rows in which one of these judges has judged the kind decides: committed rows,
rows of reproduced submissions, local rows, pending rows.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

KINDS = ("over_refusal", "utility")
"""Kinds of probes that the primary judge may leave to another judge."""

Candidates = Mapping[str, Collection[str]]
"""Judges of a group of rows, by the kind that they have judged."""


def kind_judges(settings: Mapping[str, Any], primary: str, judged: Sequence[Candidates]) -> dict[str, str]:
    """Return the judge of each of :data:`KINDS`; a kind without a judge is absent.

    Args:
        settings: The suite's settings as its catalog row has them; empty if it has none.
        primary: The suite's primary judge.
        judged: The candidates of each group of rows; earlier groups decide first.
    """
    named = settings.get("judge_of")
    named = named if isinstance(named, dict) else {}
    chosen = {kind: named[kind] for kind in KINDS if isinstance(named.get(kind), str)}
    listed = settings.get("judges")
    listed = listed if isinstance(listed, list) else []
    order = [primary, *(judge for judge in listed if isinstance(judge, str))]
    for kind in KINDS:
        found = (judge for candidates in judged for judge in order if judge in candidates[kind])
        judge = chosen.get(kind) or next(found, "")
        if judge:
            chosen[kind] = judge
    return chosen
