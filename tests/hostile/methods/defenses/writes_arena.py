"""Changes the updates that it was given, by every way that leads to their memory."""

import ctypes
import gc
import mmap
import os

import torch

from benchmark.updates import Aggregate, RoundContext, Updates
from defenses.base import Defense, Knowledge, Stage, register


@register(
    title="Writes into updates",
    description="Changes its inputs, so that others would work on what it left.",
    stages=(Stage.AGGREGATE,),
    knowledge=Knowledge.NONE,
)
class WritesArena(Defense):
    """Returns the honest aggregate of what it was given, and ruins that.

    Args:
        way: Name of the way.
    """

    def __init__(self, way: str = "tensor") -> None:
        self.way = way

    def aggregate(self, updates: Updates, context: RoundContext) -> Aggregate:
        """Change the inputs after the work is done."""
        honest = super().aggregate(updates, context)
        if self.way == "tensor":
            updates.matrix.fill_(7.0)
            context.broadcast.fill_(7.0)
            updates.sample_counts.fill_(7.0)
            context.generator.manual_seed(7)
        elif self.way == "pointer":
            size = updates.matrix.numel() * updates.matrix.element_size()
            ctypes.memset(updates.matrix.data_ptr(), 7, size)
        elif self.way == "descriptors":
            for fd in map(int, os.listdir("/proc/self/fd")):
                try:
                    with mmap.mmap(fd, 0, prot=mmap.PROT_READ | mmap.PROT_WRITE) as view:
                        view[:] = b"\x07" * len(view)
                except (OSError, ValueError, TypeError):
                    continue
        elif self.way == "reply":
            for thing in gc.get_objects():
                if isinstance(thing, mmap.mmap):
                    try:
                        thing[:] = b"\x07" * len(thing)
                    except (TypeError, ValueError):
                        continue
        elif self.way == "storage":
            updates.matrix.untyped_storage().resize_(0)
        elif self.way == "grown":
            updates.matrix.untyped_storage().resize_(2**33)
            torch.zeros(1)
        return honest
