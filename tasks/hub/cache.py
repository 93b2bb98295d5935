"""This package's folder in the user's cache, for files that can be made or fetched again."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

CACHE: Final = "FEDSAFETY_CACHE"
"""Environment variable of the cache folder."""


def cache_folder() -> Path:
    """Return the cache folder, which may not exist yet.

    The folder is the value of ``FEDSAFETY_CACHE``, else ``fedsafetybench`` below ``XDG_CACHE_HOME`` or ``~/.cache``.
    """
    if chosen := os.environ.get(CACHE, ""):
        return Path(chosen).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "fedsafetybench"


def keep(place: Path, content: bytes) -> None:
    """Write a file completely or not at all, even if other processes write it at the same time.

    Raises:
        OSError: The file cannot be written.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=place.parent, prefix=f".{place.name}.", delete=False) as stream:
        unfinished = Path(stream.name)
        try:
            stream.write(content)
            stream.close()
            unfinished.replace(place)
        except OSError:
            with suppress(OSError):
                unfinished.unlink()
            raise
