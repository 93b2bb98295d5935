"""Rates at which this machine multiplies matrices and copies memory, measured in a moment."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from benchmark.generation.needs import Device

_SIDE = 256
"""Side of the first matrices that are multiplied."""
_LARGEST_SIDE = 8192
"""Side of the largest matrices; a GPU gets no faster beyond that."""
_LONG_ENOUGH = 0.1
"""Seconds after which one product is no longer dominated by its start."""
_COPIED = 1 << 28
"""Bytes of the copied block: beyond every cache."""


@dataclass(frozen=True)
class Rate:
    """A measurement of the machine.

    Attributes:
        device: Name of the device.
        dtype: Number format of the product.
        operations: Matrix operations a second.
        bandwidth: Bytes a second that are read and written by a copy.
    """

    device: str
    dtype: str
    operations: float
    bandwidth: float


def measure_rate(dtype: str, device: Device, seconds: float = 0.5) -> Rate:
    """Multiply square matrices and copy a block on ``device`` for about ``seconds`` each, at most four times that.

    Args:
        dtype: Number format, as PyTorch names it.
        device: Device to measure.
        seconds: Time for each of the two rates.
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
    """Return the shortest time of repeated calls, after a call that is not counted."""
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
