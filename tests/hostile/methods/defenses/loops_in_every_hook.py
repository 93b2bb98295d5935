"""Comes back from no hook: busy, asleep, in compiled code, deaf to signals, after stopping itself."""

import os
import signal
import threading
import time

from defenses.base import Defense, Knowledge, Stage, register


@register(
    title="Loops",
    description="Never comes back from a hook, in each for another reason.",
    stages=(Stage.PREPARE, Stage.AGGREGATE, Stage.FINALIZE, Stage.SERVE),
    knowledge=Knowledge.NONE,
)
class LoopsInEveryHook(Defense):
    """Ends only when it is ended."""

    def check_shape(self, participants: int, declared_malicious: int) -> None:
        """Loop in Python, and take every exception for a reason to go on."""
        while True:
            try:
                while True:
                    pass
            except BaseException:
                continue

    def degenerate_as(self, participants: int, declared_malicious: int) -> str | None:
        """Sleep, which takes no processor time."""
        time.sleep(1e8)

    def prepare(self, server: object) -> None:
        """Compute one number without letting the interpreter run."""
        return 3 ** (3**24) % 1000

    def aggregate(self, updates: object, context: object) -> None:
        """Ignore every signal that can be ignored, then loop."""
        for number in range(1, 65):
            try:
                signal.signal(number, signal.SIG_IGN)
            except (OSError, ValueError):
                continue
        while True:
            pass

    def finalize(self, adapter: object, server: object) -> None:
        """Wait for itself."""
        lock = threading.Lock()
        lock.acquire()
        lock.acquire()

    def serve(self, prompt: object) -> None:
        """Stop the own process, which then neither runs nor ends."""
        os.kill(os.getpid(), signal.SIGSTOP)
