"""Rows on which a server trains its start model where the suite has no alignment: rows that it owns."""

from __future__ import annotations

from defenses.base import Server
from tasks.base import Example


def owned_rows(server: Server) -> list[Example]:
    """Return as many owned rows as a post-hoc defense may use, half of them refusals, in random order."""
    half = server.examples // 2
    return server.shuffle(server.owned_aligned(half) + server.owned_normal(server.examples - half))
