"""Prints hundreds of megabytes, on every way out, and behaves otherwise."""

import logging
import os
import sys
import warnings

from benchmark.updates import Aggregate, RoundContext, Updates
from defenses.base import Defense, Knowledge, Stage, register


@register(
    title="Prints much",
    description="Prints hundreds of megabytes in each round, in lines that look like somebody else's.",
    stages=(Stage.AGGREGATE,),
    knowledge=Knowledge.NONE,
)
class PrintsMuch(Defense):
    """Behaves like the default in every other respect."""

    def aggregate(self, updates: Updates, context: RoundContext) -> Aggregate:
        """Print, log and warn."""
        block = b"error: forged line of another program \x1b[2J\xff\n" * 100_000
        for fd in (1, 2):
            for _ in range(100):
                os.write(fd, block)
        for _ in range(1000):
            print("x" * 100_000)  # noqa: T201
            print("x" * 100_000, file=sys.stderr)  # noqa: T201
        logging.getLogger().critical("x" * 1_000_000)
        warnings.warn("x" * 1_000_000, stacklevel=1)
        return super().aggregate(updates, context)
