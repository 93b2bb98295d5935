"""The ordinary rows of a client, for the attacks that train on harmless rows only."""

from __future__ import annotations

from tasks.base import DataKind, Example


def ordinary_of(rows: list[Example]) -> list[Example]:
    """Return the rows of kind normal, in order: without the refusals of harmful requests that honest clients hold.

    Attacks on harmless rows leave these refusals out, because they would restore what the attack erodes.
    """
    return [row for row in rows if row.kind is DataKind.NORMAL]
