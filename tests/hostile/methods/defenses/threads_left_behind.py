"""Leaves threads that work on after the hook has returned, and that no end of the program stops."""

import atexit
import threading
import time

from benchmark.updates import Aggregate, RoundContext, Updates
from defenses.base import Defense, Knowledge, Stage, register


def forever() -> None:
    """Use the processor."""
    while True:
        time.sleep(0.01)


@register(
    title="Threads left behind",
    description="Returns an honest aggregate and leaves threads that never end.",
    stages=(Stage.AGGREGATE,),
    knowledge=Knowledge.NONE,
)
class ThreadsLeftBehind(Defense):
    """Does what it should, and goes on when it should not."""

    def aggregate(self, updates: Updates, context: RoundContext) -> Aggregate:
        """Behave like the default."""
        atexit.register(forever)
        for _ in range(3):
            threading.Thread(target=forever, daemon=False).start()
        return super().aggregate(updates, context)

    def __del__(self) -> None:
        """Never be collected."""
        forever()
