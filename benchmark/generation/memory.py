"""The error of an engine that ran out of memory, with its settings and the way out."""

from __future__ import annotations

from collections.abc import Mapping

from benchmark.errors import MemoryShortageError, first_line


def memory_error(engine: str, doing: str, error: BaseException, settings: Mapping[str, object]) -> MemoryShortageError:
    """Return the error that a user sees when memory ran out.

    Args:
        engine: Name of the engine.
        doing: Its work at that moment, for example ``answering``.
        error: The error that reports the shortage.
        settings: The settings that decide how much memory is taken.
    """
    shown = ", ".join(f"{name}={value}" for name, value in settings.items())
    return MemoryShortageError(
        f"{engine} ran out of memory while {doing} ({shown}): {first_line(error):.300}; lower compute.max_batch "
        f"(sequences at once), compute.max_loras or compute.max_length, raise compute.gpu_memory_fraction if nothing "
        f"else runs on the GPU, or spread the model over more GPUs with compute.tensor_parallel; then run again, "
        f"because finished work is kept"
    )
