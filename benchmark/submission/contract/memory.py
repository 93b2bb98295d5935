"""Peak memory of a method's process over a stretch of work, on platforms that report it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmark.sandbox.proxy import Sandboxed

_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"


@contextmanager
def peak_memory(instance: object) -> Iterator[Callable[[], int | None]]:
    """Give a function that returns the peak, in bytes, of the instance's process, or of this one since the start.

    Args:
        instance: A method; in a process of its own if it is a stand-in.
    """
    here = _Here()
    yield (lambda: instance.usage().peak_memory_bytes) if isinstance(instance, Sandboxed) else here.read


class _Here:
    """This process, from the making of this on."""

    def __init__(self) -> None:
        try:
            _RESET.write_text(_RESET_PEAK)
            self._works = True
        except OSError:  # no Linux, or a kernel that does not let it
            self._works = False

    def read(self) -> int | None:
        """Return the largest resident size since the making, in bytes; ``None`` if the platform does not report it."""
        if not self._works:
            return None
        try:
            found = re.search(r"^VmHWM:\s+(\d+) kB$", _STATUS.read_text(), flags=re.MULTILINE)
        except OSError:
            return None
        return int(found[1]) * 1024 if found else None
