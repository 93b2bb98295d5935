"""Ends its process in the way that the parameter names."""

import atexit
import ctypes
import os
import signal
import sys
import threading
import time

from benchmark.updates import Aggregate, RoundContext, Updates
from defenses.base import Defense, Knowledge, Stage, register


def later() -> None:
    """End the process once the hook has returned."""
    threading.Timer(0.2, os._exit, (0,)).start()


def kill_all() -> None:
    """End every process that can be seen, but only where none of the machine can."""
    if os.getpid() < 50:
        os.kill(-1, signal.SIGKILL)
    raise RuntimeError("still here")


def kill_first() -> None:
    """End the first process, and with it everything that it looks after."""
    if os.getpid() < 50:
        os.kill(1, signal.SIGKILL)
        time.sleep(0.2)
    raise RuntimeError("still here")


def kill_group() -> None:
    """End the own process group."""
    if os.getpid() < 50:
        os.kill(0, signal.SIGTERM)
        time.sleep(0.2)
    raise RuntimeError("still here")


WAYS = {
    "exit": lambda: sys.exit(0),
    "_exit": lambda: os._exit(0),
    "_exit 3": lambda: os._exit(3),
    "abort": os.abort,
    "segfault": lambda: ctypes.string_at(8),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "kill all": kill_all,
    "kill the first": kill_first,
    "kill the group": kill_group,
    "at exit": lambda: (atexit.register(os._exit, 0), sys.exit(0)),
    "later": later,
}


@register(
    title="Exits",
    description="Ends its own process, or somebody else's.",
    stages=(Stage.AGGREGATE,),
    knowledge=Knowledge.NONE,
)
class Exits(Defense):
    """One way an instance.

    Args:
        way: Name of the way.
    """

    def __init__(self, way: str = "exit") -> None:
        self.way = way

    def aggregate(self, updates: Updates, context: RoundContext) -> Aggregate:
        """Leave."""
        WAYS[self.way]()
        return super().aggregate(updates, context)
