"""A run: a plan, the store of its artefacts, and the means to do it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import torch

from benchmark.execution.plan import Plan
from benchmark.generation.select import EngineChoice
from benchmark.progress import Reporter
from benchmark.records.store import Store
from benchmark.sandbox.adopt import Strangers


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
    """

    plan: Plan
    store: Store
    engine: EngineChoice
    reporter: Reporter
    workers: int = 1
    strangers: Strangers = field(default_factory=Strangers)


def default_workers() -> int:
    """Return how many processors this process may use; one where training uses a GPU, which it fills alone."""
    if torch.cuda.is_available():
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
