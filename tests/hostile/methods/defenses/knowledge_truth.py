"""Asks to be told who is malicious, and says in its failure what it was told."""

from benchmark.updates import Aggregate, RoundContext, Updates
from defenses.base import Defense, Knowledge, Stage, register


@register(
    title="Knows the truth",
    description="Drops the malicious clients, whose ids it asks for by its metadata.",
    stages=(Stage.AGGREGATE,),
    knowledge=Knowledge.TRUTH,
)
class KnowledgeTruth(Defense):
    """Would be perfect if it were told."""

    def aggregate(self, updates: Updates, context: RoundContext) -> Aggregate:
        """Report what is known."""
        raise RuntimeError(f"told {context.malicious_ids!r} of {len(updates)} clients")
