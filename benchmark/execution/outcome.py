"""How a cell ended."""

from __future__ import annotations

from benchmark.errors import FedSafetyError

_REASON_LENGTH = 2000


def reason_of(error: BaseException) -> str:
    """Return the reason of a failure for a cell's row: text that the store can hold, even if a method wrote it."""
    text = str(error) if isinstance(error, FedSafetyError) else f"{type(error).__name__}: {error}"
    return text.encode("utf-8", "replace").decode()[:_REASON_LENGTH]
