"""Rows on which a server aligns the start model once more: those of the suite's alignment, or rows that it owns."""

from __future__ import annotations

from defenses.base import Server
from tasks.base import Example


def alignment_rows(server: Server) -> list[Example]:
    """Return the rows of the suite's alignment, or as many owned ones as a post-hoc defense may use, half refusals.

    Owned rows stand in where the suite does not align its start model.
    """
    if rows := server.alignment_examples():
        return rows
    half = server.examples // 2
    return server.shuffle(server.owned_aligned(half) + server.owned_normal(server.examples - half))
