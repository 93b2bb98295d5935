"""Fetching of models and data: permission, progress, and folders that appear complete or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from benchmark.errors import StorageError
from tasks.hub.cache import CACHE

Say = Callable[[str], None]
"""Function that shows one line of progress."""

_PERMITTED: Final = ContextVar("permitted", default=True)


def silent(_: str) -> None:
    """Show nothing."""


def may_fetch() -> bool:
    """Return whether files may be fetched now; see :func:`without_fetching`."""
    return _PERMITTED.get()


@contextmanager
def without_fetching() -> Iterator[None]:
    """Fetch nothing in this context, where a plan or a state is only shown: missing files raise ``NotFetchedError``."""
    token = _PERMITTED.set(False)
    try:
        yield
    finally:
        _PERMITTED.reset(token)


@contextmanager
def completed(place: Path, is_complete: Callable[[], bool], say: Say) -> Iterator[Path | None]:
    """Yield a temporary folder that takes ``place`` when the context ends without an error, or ``None``.

    ``None`` stands for a place that another process completed in the meantime: a lock lets one process work at a time.
    The temporary folder lies beside ``place``. A killed process leaves only that folder and the lock file, and the next
    process that works on ``place`` removes the folder.

    Args:
        place: Folder that is to appear, complete or not at all. A folder that is not complete is replaced.
        is_complete: Returns whether ``place`` is complete.
        say: Shows that another process is waited for.

    Raises:
        StorageError: The cache cannot be written.
    """
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(place.with_name(f".{place.name}.lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            say(f"waiting for another process that prepares {place.name}")
            lock.acquire()
    except OSError as error:
        raise _unwritable(place, error) from error
    try:
        if is_complete():
            yield None
            return
        for remains in place.parent.glob(f".{place.name}.part-*"):
            shutil.rmtree(remains, ignore_errors=True)
        try:
            # The name is free, because remains were removed and the lock is held. The umask decides who may read.
            part = place.with_name(f".{place.name}.part-{os.getpid()}")
            part.mkdir()
        except OSError as error:
            raise _unwritable(place, error) from error
        try:
            yield part
            if place.exists():
                shutil.rmtree(place)
            part.rename(place)
        except OSError as error:
            raise _unwritable(place, error) from error
        finally:
            with suppress(OSError):
                shutil.rmtree(part)
    finally:
        lock.release()


def _unwritable(place: Path, error: OSError) -> StorageError:
    return StorageError(
        f"{place} cannot be written: {error.strerror or error}; free space, or name another folder with {CACHE}"
    )
