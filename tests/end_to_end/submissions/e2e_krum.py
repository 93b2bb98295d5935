"""Krum in a file of its own."""

from __future__ import annotations

from benchmark.errors import NotApplicableError
from benchmark.updates import Aggregate, RoundContext, Updates
from defenses._krum import krum_scores, lowest
from defenses.base import Defense, Knowledge, Stage, register, selection


@register(
    title="Krum in a file",
    description="Keeps the one update that lies closest to its nearest neighbours.",
    stages=(Stage.AGGREGATE,),
    knowledge=Knowledge.DECLARED_BOUND,
)
class FileKrum(Defense):
    def check_shape(self, participants: int, declared_malicious: int) -> None:
        if participants < 2 * declared_malicious + 3:
            raise NotApplicableError(f"it needs n >= 2f + 3, and here n = {participants}, f = {declared_malicious}")

    def degenerate_as(self, participants: int, declared_malicious: int) -> str | None:
        return "fedavg" if participants == 1 else None

    def aggregate(self, updates: Updates, context: RoundContext) -> Aggregate:
        neighbours = max(1, len(updates) - context.declared_malicious - 2)
        winner = lowest(krum_scores(updates.matrix, neighbours), 1)
        return Aggregate(updates.matrix[int(winner)].clone(), selection(winner, len(updates)))
