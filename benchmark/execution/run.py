"""A run: a plan, the store of its artefacts, and the means to do it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import torch

from benchmark.execution.plan import Plan
from benchmark.generation.needs import available_memory
from benchmark.generation.select import EngineChoice
from benchmark.progress import Reporter
from benchmark.records.remembered import REMEMBERED_BYTES
from benchmark.records.store import Store
from benchmark.sandbox.adopt import Strangers

SMALL_PROCESS_BYTES = 1 << 30
"""Memory of a training process with a small model; 0.75 GiB were measured with the model of the micro suite."""


@dataclass(frozen=True)
class Run:
    """A plan, the store of its artefacts, and the means to do it.

    Attributes:
        plan: The cells.
        store: Where artefacts are looked for and written.
        engine: The generation engine.
        reporter: Shows progress.
        workers: Training processes, one thread each.
        strangers: Methods of the plan that this process has adopted, for the training processes to adopt, too.
        remembered_bytes: Disk that remembered rounds of local training may take; 0 to train each anew.
    """

    plan: Plan
    store: Store
    engine: EngineChoice
    reporter: Reporter
    workers: int = 1
    strangers: Strangers = field(default_factory=Strangers)
    remembered_bytes: int = REMEMBERED_BYTES


def usable_cores() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_workers(process_bytes: int = SMALL_PROCESS_BYTES) -> int:
    """Return the number of training processes at once: one for each processor, or as many as memory holds.

    Where training uses a GPU, it is one, because one process fills the GPU.

    Args:
        process_bytes: Memory of a training process; by default of one with a model of a few million parameters.
    """
    if torch.cuda.is_available():
        return 1
    return workers_that_fit(usable_cores(), available_memory(), process_bytes)


def workers_that_fit(cores: int, available: int, process_bytes: int) -> int:
    """Return the number of processes that neither processors nor memory forbid; at least one."""
    return max(1, min(cores, available // process_bytes))
