"""Rates at which this machine multiplies matrices and copies memory, measured in a moment."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Barrier

import torch
from torch import Tensor

from benchmark.generation.needs import Device
from benchmark.models.products import linear, widens_bfloat16

_SIDE = 256
"""Side of the first matrices that are multiplied."""
_LARGEST_SIDE = 8192
"""Side of the largest matrices; a GPU gets no faster beyond that."""
_LONG_ENOUGH = 0.1
"""Seconds after which one product is no longer dominated by its start."""
_COPIED = 1 << 28
"""Bytes of the copied block: beyond every cache."""
_SHORT = 1e-3
"""Seconds of a product on a processor. The product is shorter than a turn of the system's scheduler, so the fastest of
many products ran undisturbed even where other programs use all processors."""


Product = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Rate:
    """A measurement of the machine.

    Attributes:
        device: Name of the device.
        dtype: Number format of the product.
        operations: Matrix operations a second, of all threads together.
        bandwidth: Bytes a second that are read and written by a copy.
        threads: Threads that multiplied side by side, each its own matrices; 1 for a GPU.
        unwidened: Operations a second of all threads where the processor lacks instructions for the format and nothing
            widens the numbers, as in vLLM. ``None`` where the products are the same.
    """

    device: str
    dtype: str
    operations: float
    bandwidth: float
    threads: int = 1
    unwidened: float | None = None


def measure_rate(dtype: str, device: Device, seconds: float = 0.5) -> Rate:
    """Multiply square matrices and copy a block on ``device`` for about ``seconds`` each, at most four times that.

    On a processor, as many threads as PyTorch uses multiply side by side, because training runs in processes of one
    thread each. The products are short, and each thread's fastest one counts.

    Args:
        dtype: Number format, as PyTorch names it.
        device: Device to measure.
        seconds: Time for each of the two rates.
    """
    threads = torch.get_num_threads() if device.kind == "cpu" else 1
    widens = device.kind == "cpu" and dtype == "bfloat16" and widens_bfloat16()
    operations = _operations(dtype, device, seconds, threads, _widened if widens else torch.matmul)
    unwidened = _operations(dtype, device, seconds, threads, torch.matmul) if widens else None
    source = torch.zeros(_COPIED // 4, dtype=torch.float32, device=device.kind)
    target = torch.empty_like(source)
    bandwidth = 2.0 * _COPIED / _best(lambda: target.copy_(source), seconds / 2, device)
    return Rate(device.name, dtype, operations, bandwidth, threads, unwidened)


def _widened(left: Tensor, right: Tensor) -> Tensor:
    """Return a product as this project's models take it on a processor without instructions for the format."""
    return linear(left, right.t())


def _operations(dtype: str, device: Device, seconds: float, threads: int, product: Product) -> float:
    """Return the operations a second of so many threads together."""
    if threads == 1:
        return _one_product(dtype, device, seconds, product)
    return _side_by_side(dtype, device, seconds, threads, product)


def _one_product(dtype: str, device: Device, seconds: float, product: Product) -> float:
    """Return the operations a second of products one after the other."""
    side, enough = _SIDE, _SHORT if device.kind == "cpu" else _LONG_ENOUGH
    trial = min(seconds / 4, 10 * enough) if device.kind == "cpu" else 0.0
    while True:
        left, right = (torch.full((side, side), 0.5, dtype=getattr(torch, dtype), device=device.kind) for _ in "ab")
        once = _best(lambda a=left, b=right: product(a, b), trial, device)  # type: ignore[misc]
        # The next size takes eight times as long.
        if once >= enough or side >= _LARGEST_SIDE or 8 * once > seconds:
            return 2.0 * side**3 / _best(lambda a=left, b=right: product(a, b), seconds, device)  # type: ignore[misc]
        side *= 2


def _side_by_side(dtype: str, device: Device, seconds: float, threads: int, product: Product) -> float:
    """Return the operations a second of threads that multiply at the same time."""
    ready = Barrier(threads)

    def rate(_: int) -> float:
        # The setting belongs to the thread that sets it.
        torch.set_num_threads(1)
        ready.wait()
        return _one_product(dtype, device, seconds, product)

    with ThreadPoolExecutor(threads) as pool:
        rates = list(pool.map(rate, range(threads)))
    torch.set_num_threads(threads)
    return sum(rates)


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
