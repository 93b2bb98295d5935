"""Running out of memory, said once and for all engines: what was set, and what to lower."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

from benchmark.errors import MemoryShortageError

_SIGNS = re.compile(
    r"out of memory|No available memory for the cache blocks|less than desired GPU memory utilization"
    r"|DefaultCPUAllocator: (can't|not enough) |larger than the (available|maximum number of tokens)",
    re.IGNORECASE,
)


def out_of_memory(error: BaseException) -> bool:
    """Return whether ``error``, or what caused it, says that memory ran out.

    vLLM reports what happens in its worker processes as plain text in errors of other types.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, torch.OutOfMemoryError | MemoryError) or _SIGNS.search(str(seen)):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def memory_error(engine: str, doing: str, error: BaseException, settings: Mapping[str, object]) -> MemoryShortageError:
    """Return the error that a user sees when memory ran out.

    Args:
        engine: Name of the engine.
        doing: What it was doing.
        error: What happened.
        settings: The settings that decide how much memory is taken.
    """
    said = str(error).strip().partition("\n")[0] or type(error).__name__
    shown = ", ".join(f"{name}={value}" for name, value in settings.items())
    return MemoryShortageError(
        f"{engine} ran out of memory while {doing} ({shown}): {said:.300}; lower compute.max_batch (sequences at "
        f"once), compute.max_loras or compute.max_length, raise compute.gpu_memory_fraction if nothing else runs on "
        f"the GPU, or spread the model over more with compute.tensor_parallel; what is finished stays, so run again"
    )
