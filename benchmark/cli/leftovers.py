"""Temporary files and semaphores of this process, and those that dead predecessors left.

A process has a folder for everything temporary and names its semaphores after the folder. As long as it lives it holds
a lock in the folder. The kernel releases the lock of a killed process, so a folder whose lock is free has no owner.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

_PREFIX = "fedsafety-"
_LOCK = "lock"
_SEMAPHORES = Path("/dev/shm")  # noqa: S108
_LONGEST = 70
"""Characters of the longest folder. The path of a socket inside may have 104 on macOS and 108 on Linux."""


def claim_folder() -> Path | None:
    """Direct temporary files of this process and its workers to a new folder, which goes when the process ends.

    Returns:
        The folder. ``None`` if temporary files have no place, or if its path is too long for sockets.
    """
    try:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    except OSError:
        return None
    if len(str(folder)) > _LONGEST:
        folder.rmdir()
        return None
    _lock(folder)
    # Functions that are registered later run earlier: multiprocessing removes its own files first.
    atexit.register(_remove, folder)
    atexit.register(_end_fork_server)
    tempfile.tempdir = os.environ["TMPDIR"] = str(folder)
    _name_semaphores(folder)
    return folder


def remove_leftovers(place: Path) -> int:
    """Remove the folders and semaphores of dead processes of this user; return the number of folders.

    Args:
        place: Folder of temporary files, in which processes have made their folders.
    """
    dead = [folder for folder in sorted(place.glob(f"{_PREFIX}*")) if _is_ours(folder) and not _owner_lives(folder)]
    for folder in dead:
        _remove(folder)
    return len(dead)


def _lock(folder: Path) -> None:
    """Hold a lock in ``folder`` until this process ends. The lock's file gets its name once the lock is held."""
    descriptor = os.open(folder / f"{_LOCK}.new", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    os.rename(folder / f"{_LOCK}.new", folder / _LOCK)


def _name_semaphores(folder: Path) -> None:
    """Name the semaphores of this process and of its workers after ``folder``."""
    from multiprocessing.process import current_process

    process: Any = current_process()
    process._config["semprefix"] = f"/{folder.name}"


def _end_fork_server() -> None:
    """End the server that forks worker processes.

    After Ctrl-C the server may import modules for seconds more, and PyTorch would make the removed folder again. At the
    end of this process no worker is left.
    """
    server = getattr(sys.modules.get("multiprocessing.forkserver"), "_forkserver", None)
    number = getattr(server, "_forkserver_pid", None)
    if number is not None:
        with contextlib.suppress(OSError):
            os.kill(number, signal.SIGKILL)
            os.waitpid(number, 0)


def _is_ours(folder: Path) -> bool:
    """Return whether a process of this user has made ``folder`` and locked it."""
    state = folder.lstat()
    return state.st_uid == os.getuid() and not folder.is_symlink() and (folder / _LOCK).is_file()


def _owner_lives(folder: Path) -> bool:
    """Return whether a process holds the lock of ``folder``."""
    with (folder / _LOCK).open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def _remove(folder: Path) -> None:
    """Remove a folder and the semaphores that are named after it."""
    for semaphore in _SEMAPHORES.glob(f"sem.{folder.name}-*"):
        semaphore.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
