"""The machine that a run will use: its memory, and how fast it multiplies matrices, measured in a moment."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

_SIDE = 256
"""Side of the first matrices that are multiplied."""
_LARGEST_SIDE = 8192
"""Side of the largest; beyond that a GPU gets no faster."""
_LONG_ENOUGH = 0.1
"""Seconds after which one product is no longer dominated by its start."""
_COPIED = 1 << 28
"""Bytes of the copied block: beyond every cache."""


@dataclass(frozen=True)
class Device:
    """Where models run.

    Attributes:
        kind: A GPU or the processor.
        name: For the reader.
        memory: Bytes that a process may use: the GPU's, or the machine's as far as this process is allowed it.
    """

    kind: Literal["cuda", "cpu"]
    name: str
    memory: int


@dataclass(frozen=True)
class Rate:
    """What was measured.

    Attributes:
        device: Where.
        dtype: Number format of the product.
        operations: Matrix operations a second.
        bandwidth: Bytes a second that are read and written by a copy.
    """

    device: str
    dtype: str
    operations: float
    bandwidth: float


def this_device() -> Device:
    """Return the first GPU, or the processor where there is none."""
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        return Device("cuda", properties.name, properties.total_memory)
    return Device("cpu", f"processor, {_processors()} cores", _machine_memory())


def measure_rate(dtype: str, device: Device, seconds: float = 0.5) -> Rate:
    """Multiply square matrices and copy a block on ``device`` for about ``seconds`` each, at most four times that.

    Args:
        dtype: Number format, as PyTorch names it.
        device: Where.
        seconds: How long to measure.
    """
    side = _SIDE
    while True:
        left, right = (torch.full((side, side), 0.5, dtype=getattr(torch, dtype), device=device.kind) for _ in "ab")
        once = _best(lambda a=left, b=right: a @ b, 0.0, device)  # type: ignore[misc]
        # The next size takes eight times as long.
        if once >= _LONG_ENOUGH or side >= _LARGEST_SIDE or 8 * once > seconds:
            break
        side *= 2
    operations = 2.0 * side**3 / _best(lambda: left @ right, seconds, device)
    source = torch.zeros(_COPIED // 4, dtype=torch.float32, device=device.kind)
    target = torch.empty_like(source)
    bandwidth = 2.0 * _COPIED / _best(lambda: target.copy_(source), seconds / 2, device)
    return Rate(device.name, dtype, operations, bandwidth)


def _best(work: Callable[[], object], seconds: float, device: Device) -> float:
    """Return the shortest of repeated times, after one that is not counted."""
    best, spent = float("inf"), 0.0
    work()
    while True:
        _wait(device)
        began = time.perf_counter()
        work()
        _wait(device)
        took = time.perf_counter() - began
        best, spent = min(best, took), spent + took
        if spent >= seconds:
            return max(best, 1e-9)


def _wait(device: Device) -> None:
    if device.kind == "cuda":
        torch.cuda.synchronize()


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _machine_memory() -> int:
    """Return the machine's memory, or the container's limit where it is smaller."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = Path(limit).read_text(encoding="ascii").strip()
        except OSError:
            continue
        if text.isdigit():
            memory = min(memory, int(text))
    return memory
