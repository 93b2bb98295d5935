"""Limits of a sandboxed process."""

from __future__ import annotations

from dataclasses import dataclass, fields

from benchmark.errors import UsageError

MIB = 1024**2
GIB = 1024**3


@dataclass(frozen=True)
class Limits:
    """Bounds on one sandboxed process and all it starts. Breaking one ends it, with the bound in the reason.

    Attributes:
        call_seconds: Wall time of one call, in seconds, kept by the caller; what it waits for is not counted.
        load_seconds: Wall time from its start until the method is imported, in seconds, kept by the caller.
        cpu_seconds: Processor time of its whole life, in seconds, over all threads.
        memory_bytes: Its own memory and the largest shared memory it has mapped.
        processes: Processes at a time, itself included.
        threads: Threads at a time, over all processes.
        file_bytes: Size of the scratch folder, and of the largest file in it.
        message_bytes: Size of one message that it sends, kept by the caller.
        output_bytes: How much of the end of stdout and stderr together is kept.

    Raises:
        UsageError: A bound is not positive.
    """

    call_seconds: float = 120.0
    load_seconds: float = 120.0
    cpu_seconds: float = 3600.0
    memory_bytes: int = 8 * GIB
    processes: int = 1
    threads: int = 64
    file_bytes: int = 64 * MIB
    message_bytes: int = 64 * MIB
    output_bytes: int = 64 * 1024

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not value > 0:
                raise UsageError(f"limit {field.name} is {value}; it must be positive")


def in_words(size: int) -> str:
    """Return a number of bytes as people write it, for example ``8 GiB``."""
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (1024, "KiB")):
        if size >= unit:
            return f"{size / unit:.3g} {name}"
    return f"{size} bytes"
