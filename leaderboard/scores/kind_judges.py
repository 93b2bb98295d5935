"""Judges of the kinds of probes: one judge a kind for all cells of a suite.

Harmful probes are scored by the suite's primary judge. Over-refusal and utility probes are scored by the judge that the
suite names in ``judge_of``; else by the primary judge, if it has judged the kind; else by the first in the suite's own
list of judges that has. Committed rows decide, then those of reproduced submissions, then one's own, then pending ones:
the first of these in which one of the suite's judges has judged the kind.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

KINDS = ("over_refusal", "utility")
"""Kinds of probes that the primary judge may leave to another."""

Candidates = Mapping[str, Collection[str]]
"""Judges that have judged a kind, by kind."""


def kind_judges(settings: Mapping[str, Any], primary: str, judged: Sequence[Candidates]) -> dict[str, str]:
    """Return the judge of each of :data:`KINDS` of which there is one.

    Args:
        settings: The suite's settings as its catalog row has them; empty if it has none.
        primary: The suite's primary judge.
        judged: Who has judged what, by groups of rows, those that decide first.
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
