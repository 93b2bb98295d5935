"""Content digests of files that may be large, cached until the file changes.

The cache key of a file is its path, inode, size and times of change. Digests of large files are stored in the user's
cache folder, so that a second process need not read 13 GB again. Large blobs of the hub's cache are named by their
SHA-256 and are not read at all.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Final

from tasks.hub.cache import cache_folder, keep

_REMEMBERED_FROM: Final = 8_000_000
"""Size in bytes from which digests are stored on disk. Smaller files are read as fast as a stored digest."""
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits.

    Raises:
        OSError: The file cannot be read.
    """
    real = path.resolve()
    if real.parent.name == "blobs" and _SHA256.fullmatch(real.name):
        return real.name
    stat = real.stat()
    return _digest(str(real), stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


def files_sha256(folder: Path, files: Iterable[Path]) -> str:
    """Return one SHA-256 over the names (below ``folder``) and contents of ``files``, independent of their order."""
    lines = sorted(f"{path.relative_to(folder).as_posix()} {file_sha256(path)}" for path in files)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@lru_cache(maxsize=4096)
def _digest(path: str, inode: int, size: int, modified: int, changed: int) -> str:
    if size < _REMEMBERED_FROM:
        return _read_digest(path)
    identity = hashlib.sha256(repr((path, inode, size, modified, changed)).encode()).hexdigest()
    note = cache_folder() / "digests" / identity
    with suppress(OSError, ValueError):  # missing or unusable: read the file
        stored = note.read_text(encoding="ascii")
        if _SHA256.fullmatch(stored):
            return stored
    digest = _read_digest(path)
    _remember(note, digest)
    return digest


def _read_digest(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _remember(note: Path, digest: str) -> None:
    with suppress(OSError):  # without a cache the next process reads the file again
        keep(note, digest.encode("ascii"))
