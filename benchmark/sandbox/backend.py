"""Interface of a way of isolating processes."""

from __future__ import annotations

import os
import platform
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmark.sandbox.layout import Mount

NOBODY = 65534
"""User and group inside a sandbox; on the host the user and group that own nothing."""


@dataclass(frozen=True)
class Launch:
    """A command that starts a sandbox.

    Attributes:
        command: Program and arguments on the host.
        descriptors: Descriptors that the command reads; they are closed here once it runs.
        user: Number of the user and group that the command runs as; by default those of this process.
    """

    command: tuple[str, ...]
    descriptors: tuple[int, ...] = ()
    user: int | None = None


@dataclass(frozen=True)
class Isolation(ABC):
    """A tested way of isolating processes on this machine.

    The command that :meth:`launch` returns writes JSON objects to a status descriptor: ``{"child-pid": N}``, the first
    process of the sandbox as the host numbers it, and ``{"exit-code": N}`` once the program has ended (128 + the number
    of the signal that ended it). It dies with the thread that started it, and everything inside dies with it.

    Attributes:
        version: Of the program or kernel that isolates.
        user: Number of the host's user and group whose rights the program inside has. By default these are the rights
            of this process's user. Root gives up its own rights by naming :data:`NOBODY`.
    """

    version: str
    user: int | None = field(default=None, kw_only=True)

    @property
    @abstractmethod
    def name(self) -> str:
        """``bubblewrap`` or ``namespaces``."""

    @abstractmethod
    def launch(
        self, mounts: Sequence[Mount], program: Sequence[str], environment: dict[str, str], file_bytes: int, status: int
    ) -> Launch:
        """Return the command that runs ``program`` with nothing but ``mounts``, a /proc, a /dev and a scratch folder.

        Args:
            mounts: Read-only view, parents before children.
            program: Command inside.
            environment: Environment inside, the whole of it.
            file_bytes: Size of the scratch folder.
            status: Descriptor that the command writes to.
        """


def file_of(content: bytes) -> int:
    """Return a descriptor of a file in memory that holds ``content``, to be read from its beginning."""
    descriptor = os.memfd_create("sandbox")
    with os.fdopen(os.dup(descriptor), "wb") as stream:
        stream.write(content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def kernel_version() -> tuple[int, int]:
    """Return the first two numbers of the kernel's version."""
    major, minor = re.findall(r"\d+", platform.release())[:2]
    return int(major), int(minor)
