"""Isolation by the kernel's namespaces alone, where bubblewrap is not installed."""

from __future__ import annotations

import base64
import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmark.errors import SandboxUnavailableError
from benchmark.sandbox.backend import Isolation, Launch, file_of, kernel_version
from benchmark.sandbox.layout import DEVICES, SCRATCH, Kind, Mount

_OLDEST = (5, 12)  # the first that makes whole trees of mounts read-only
_MACHINES = ("x86_64", "aarch64")


@dataclass(frozen=True)
class Namespaces(Isolation):
    """Sandboxes made by ``launcher.py``, which an interpreter of its own runs."""

    @property
    def name(self) -> str:
        """``namespaces``."""
        return "namespaces"

    def launch(
        self, mounts: Sequence[Mount], program: Sequence[str], environment: dict[str, str], file_bytes: int, status: int
    ) -> Launch:
        """Return the command; the plan travels in a descriptor."""
        plan = {
            "mounts": [(mount.kind.name, mount.target, _content(mount)) for mount in mounts],
            "devices": list(DEVICES),
            "user": self.user,
            "program": list(program),
            "environment": environment,
            "file_bytes": file_bytes,
            "folder": SCRATCH,
        }
        descriptor = file_of(json.dumps(plan).encode())
        launcher = str(Path(__file__).with_name("launcher.py"))
        numbers = (str(descriptor), str(status), str(os.getpid()))
        return Launch((sys.executable, "-I", "-S", launcher, *numbers), (descriptor,))


def _content(mount: Mount) -> str:
    """Return the source of a mount; of a file to copy the bytes, in base64."""
    if mount.kind is not Kind.COPY:
        return mount.source
    return base64.b64encode(Path(mount.source).read_bytes()).decode("ascii")


def find_namespaces() -> Namespaces:
    """Return the kernel's namespaces; a trial must show whether this user may make them.

    Raises:
        SandboxUnavailableError: This is not Linux, its kernel is too old, or the machine is of another kind.
    """
    if platform.system() != "Linux":
        raise SandboxUnavailableError(f"{platform.system()} has no namespaces")
    if kernel_version() < _OLDEST:
        oldest = ".".join(map(str, _OLDEST))
        raise SandboxUnavailableError(f"Linux {platform.release()} is too old; {oldest} or newer is needed")
    if platform.machine() not in _MACHINES:
        raise SandboxUnavailableError(
            f"no launcher is known for {platform.machine()}; {' and '.join(_MACHINES)} have one"
        )
    return Namespaces("Linux " + platform.release().partition("-")[0])  # what follows names a build
