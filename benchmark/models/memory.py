"""Shortage of memory: the errors that report it, and the release of dropped tensors."""

from __future__ import annotations

import gc
import re

import torch

_SIGNS = re.compile(
    r"out of memory|No available memory for the cache blocks|less than desired GPU memory utilization"
    r"|can't allocate memory|DefaultCPUAllocator: (can't|not enough) "
    r"|larger than the (available|maximum number of tokens)",
    re.IGNORECASE,
)


def out_of_memory(error: BaseException) -> bool:
    """Return whether ``error``, or an error that caused it, reports that memory ran out.

    vLLM reports errors of its worker processes as plain text in errors of other types.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, torch.OutOfMemoryError | MemoryError) or _SIGNS.search(str(cause)):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def free_memory() -> None:
    """Free the memory of dropped tensors, on a GPU for other processes too."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
