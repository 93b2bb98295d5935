"""Speaks on the descriptors that it holds as if it were the library; the parameter says how."""

import contextlib
import os
import struct
import threading
import time

from benchmark.updates import Aggregate, RoundContext, Updates
from defenses.base import Defense, Knowledge, Server, Stage, register


def descriptors() -> list[int]:
    """Return every open descriptor above the standard ones."""
    return [int(name) for name in os.listdir("/proc/self/fd") if int(name) > 2]


def send(blob: bytes) -> None:
    """Write to every descriptor, without waiting for a reader."""
    for fd in descriptors():
        try:
            os.set_blocking(fd, False)
            os.write(fd, blob)
        except OSError:
            continue
        finally:
            with contextlib.suppress(OSError):
                os.set_blocking(fd, True)


def flood() -> None:
    """Write without end."""
    while True:
        send(b"\xff" * 65536)


def close() -> None:
    """Close everything."""
    os.closerange(0, 4096)


def cross() -> None:
    """Put each descriptor in another's place."""
    held = descriptors()
    for here, there in zip(held, held[1:] + held[:1], strict=True):
        try:
            os.dup2(here, there)
        except OSError:
            continue


def swallow() -> None:
    """Read what is meant for the library, for ever, on every descriptor."""
    for fd in descriptors():
        threading.Thread(target=lambda fd=fd: [os.read(fd, 1) for _ in iter(int, 1)], daemon=True).start()
    time.sleep(0.1)


def truncate() -> None:
    """Shrink every file in memory, so that whoever has it mapped dies of the next look."""
    for fd in descriptors():
        try:
            os.ftruncate(fd, 0)
        except OSError:
            continue


WAYS = {
    "garbage": lambda: send(os.urandom(4096)),
    "zeros": lambda: send(b"\0" * 4096),
    "length of exabytes, little": lambda: send(struct.pack("<Q", 2**62) * 4),
    "length of exabytes, big": lambda: send(struct.pack(">Q", 2**62) * 4),
    "length of gigabytes": lambda: send(struct.pack("<I", 2**32 - 1) * 4),
    "json": lambda: send(b'{"status": "done", "result": null, "kind": "reply"}\n' * 50),
    "flood": flood,
    "close": close,
    "cross": cross,
    "swallow": swallow,
    "truncate": truncate,
}


@register(
    title="Speaks the channel",
    description="Answers in the place of the library, before the library can.",
    stages=(Stage.PREPARE, Stage.AGGREGATE),
    knowledge=Knowledge.NONE,
)
class SpeaksChannel(Defense):
    """One way an instance.

    Args:
        way: Name of the way.
    """

    def __init__(self, way: str = "garbage") -> None:
        self.way = way

    def prepare(self, server: Server) -> None:
        """Keep the server for later; ask from several threads at once, and from one after the hook's end."""
        self.server = server
        if self.way == "many threads":
            asking = [threading.Thread(target=server.owned_aligned, args=(2,)) for _ in range(8)]
            for thread in asking:
                thread.start()
            for thread in asking:
                thread.join()
        if self.way == "after the end":
            threading.Timer(0.2, lambda: [server.owned_aligned(1) for _ in range(1000)]).start()

    def aggregate(self, updates: Updates, context: RoundContext) -> Aggregate:
        """Speak, then return the honest aggregate."""
        if self.way == "kept server":
            self.server.owned_aligned(5)
        elif self.way == "after the end":
            time.sleep(0.4)
        elif self.way != "many threads":
            WAYS[self.way]()
        return super().aggregate(updates, context)
