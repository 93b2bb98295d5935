"""The one test for running out of memory, of training and of engines."""

from __future__ import annotations

import pytest
import torch

from benchmark.models.memory import out_of_memory


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:116] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
        RuntimeError("can't allocate memory"),
        ValueError("No available memory for the cache blocks. Try increasing `gpu_memory_utilization`."),
    ],
    ids=lambda error: f"{type(error).__name__}: {str(error)[:30]}",
)
def test_every_text_about_memory_counts(error: Exception) -> None:
    assert out_of_memory(error)


def test_a_cause_counts_and_other_errors_do_not() -> None:
    wrapped = RuntimeError("worker died")
    wrapped.__cause__ = torch.OutOfMemoryError("CUDA out of memory")
    assert out_of_memory(wrapped)
    assert not out_of_memory(RuntimeError("index out of range"))
