"""Running out of memory: how errors report it, and how dropped tensors are given back."""

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

    vLLM passes on what happens in its worker processes as plain text in errors of other types.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, torch.OutOfMemoryError | MemoryError) or _SIGNS.search(str(seen)):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def free_memory() -> None:
    """Hand back what dropped tensors held, on a GPU to the driver, so that other processes can take it."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or the error's name."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
