"""Remembered rounds of local training, in files of a store: adapters of all clients of a round, and their losses.

Local training is a pure function, so trainings of one run that start a round from the same adapter on the same rows
share its result. An entry is named by the content that its round depends on. The entries together never take more disk
than a limit, and the entry that was not used for longest gives way to a new one.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from benchmark.records.store import SCRATCH, replacing, writing

REMEMBERED_BYTES = 4 << 30
"""Default limit on the disk that the entries of a store take."""

_ENTRY, _LOCK = ".safetensors", ".lock"
_HEADER = 1 << 10
"""Most bytes of a file beside its numbers."""
_ROOM = "room"
"""Name of the lock under which entries give way to a new one."""


@dataclass(frozen=True)
class RememberedRound:
    """Local training of one round.

    Attributes:
        adapters: Adapter of each client after the round, ``[clients, d]``.
        losses: Mean training loss of each client, ``[clients]``.
        seconds: Wall time that the training took.
    """

    adapters: NDArray[np.generic]
    losses: NDArray[np.generic]
    seconds: float

    @property
    def size(self) -> int:
        """Bytes on disk, or a few more."""
        return self.adapters.nbytes + self.losses.nbytes + _HEADER

    def digest(self, key: str) -> str:
        """Return the SHA-256 of the content under a key."""
        parts = [(array.dtype.str, array.shape) for array in (self.adapters, self.losses)]
        found = hashlib.sha256(json.dumps([key, self.seconds, parts]).encode())
        for array in (self.adapters, self.losses):
            found.update(np.ascontiguousarray(array).data)
        return found.hexdigest()


@dataclass(frozen=True)
class RememberedRounds:
    """The entries of a store. Several processes may use them at once.

    Attributes:
        folder: Folder of the entries; made on first write.
        limit: Bytes that the entries may take; with 0 none is written.
        used: Keys of the entries that this object has read or written.
    """

    folder: Path
    limit: int
    used: set[str] = field(default_factory=set, compare=False)

    @classmethod
    def of(cls, root: Path, limit: int) -> RememberedRounds:
        """Return the entries of the store in ``root``."""
        return cls(root / "remembered", limit)

    def read(self, key: str) -> RememberedRound | None:
        """Return an entry, or ``None`` if there is none. A damaged entry is removed."""
        path = self._path(key)
        try:
            with safe_open(path, "numpy") as file:
                metadata = file.metadata() or {}
                arrays = file.get_tensor("adapters"), file.get_tensor("losses")
            entry = RememberedRound(*arrays, seconds=float(metadata["seconds"]))
            if entry.digest(key) == metadata["digest"]:
                with contextlib.suppress(OSError):
                    os.utime(path)
                self.used.add(key)
                return entry
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError, KeyError, ValueError):
            pass
        _remove(path)
        return None

    def write(self, key: str, entry: RememberedRound) -> bool:
        """Write an entry in one step and return whether the limit and the disk had room for it.

        Raises:
            StorageError: The folder cannot be written.
        """
        if entry.size > self.limit:
            return False
        with self.claimed(_ROOM):
            if not self._make_room(entry.size):
                return False
            with replacing(self._path(key)) as scratch:
                content = {"adapters": entry.adapters, "losses": entry.losses}
                save_file(content, scratch, {"seconds": repr(entry.seconds), "digest": entry.digest(key)})
        self.used.add(key)
        return True

    @contextlib.contextmanager
    def claimed(self, key: str) -> Iterator[None]:
        """Hold a key, so that other processes wait with it until the context ends. The end of the process frees it.

        Raises:
            StorageError: The folder cannot be written.
        """
        path = self.folder / f"{key}{_LOCK}"
        descriptor = self._locked(path)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            os.close(descriptor)

    def remove(self, keys: Collection[str]) -> None:
        """Remove entries."""
        for key in keys:
            _remove(self._path(key))

    def clear(self, keep: Collection[str] = ()) -> None:
        """Remove all entries but those of ``keep``, and the folder if it is empty then."""
        for path in self._entries():
            if path.name.removesuffix(_ENTRY) not in keep:
                _remove(path)
        for path in self.folder.glob(f"*{_LOCK}"):  # of killed processes; a living process writes its own again
            with contextlib.suppress(OSError), path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}{_ENTRY}"

    def _entries(self) -> list[Path]:
        return [path for path in self.folder.glob(f"*{_ENTRY}") if not path.name.startswith(SCRATCH)]

    def _locked(self, path: Path) -> int:
        """Return the descriptor of a file at ``path`` that this process has locked."""
        while True:
            with writing(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                try:
                    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
                except FileNotFoundError:  # another run has just removed the empty folder
                    continue
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                # Its last holder removed the file. Another process may have locked a new one meanwhile.
                if os.path.samestat(os.fstat(descriptor), path.stat()):
                    return descriptor
            except FileNotFoundError:
                pass
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)

    def _make_room(self, size: int) -> bool:
        """Remove the least recently used entries until ``size`` bytes fit; return whether they do.

        The entries never take more than the limit, nor more than half of what the disk could give them.
        """
        used: list[tuple[int, int, Path]] = []
        for path in self._entries():
            with contextlib.suppress(FileNotFoundError):
                state = path.stat()
                used.append((state.st_mtime_ns, state.st_size, path))
        total = sum(length for _, length, _ in used)
        room = min(self.limit, (total + shutil.disk_usage(self.folder).free) // 2)
        if size > room:
            return False
        for _, length, path in sorted(used):
            if total + size <= room:
                break
            _remove(path)
            total -= length
        return True


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
