"""Ends its process in the first round."""

from __future__ import annotations

import os

from benchmark.updates import Aggregate, RoundContext, Updates
from defenses.base import Defense, Knowledge, Stage, register


@register(
    title="Exits",
    description="Ends the process that it runs in, without a word.",
    stages=(Stage.AGGREGATE,),
    knowledge=Knowledge.NONE,
)
class Exits(Defense):
    def aggregate(self, updates: Updates, context: RoundContext) -> Aggregate:
        os._exit(3)
