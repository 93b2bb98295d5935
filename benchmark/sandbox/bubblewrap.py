"""Isolation by bubblewrap (``bwrap``), which needs no root where the system lets users have namespaces."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.version import Version

from benchmark.errors import SandboxUnavailableError
from benchmark.sandbox.backend import NOBODY, Isolation, Launch, file_of
from benchmark.sandbox.layout import DEVICES, SCRATCH, SCRATCH_FOLDERS, Kind, Mount

_OLDEST = Version("0.8.0")  # the first that forbids namespaces inside


@dataclass(frozen=True)
class Bubblewrap(Isolation):
    """Sandboxes made by bubblewrap.

    Attributes:
        path: The ``bwrap`` program.
    """

    path: str

    @property
    def name(self) -> str:
        """``bubblewrap``."""
        return "bubblewrap"

    def launch(
        self, mounts: Sequence[Mount], program: Sequence[str], environment: dict[str, str], file_bytes: int, status: int
    ) -> Launch:
        """Return the command; the view travels in a descriptor, so that no host path is in a command line inside."""
        descriptors: list[int] = []
        options = ["--unshare-all", "--unshare-user", "--hostname", "sandbox"]
        options += ["--uid", str(NOBODY), "--gid", str(NOBODY)]
        options += ["--die-with-parent", "--new-session", "--cap-drop", "ALL", "--clearenv"]
        options += ["--disable-userns"]
        for name, value in environment.items():
            options += ["--setenv", name, value]
        # The first process inside is bubblewrap's own; its memory and arguments are covered.
        options += ["--proc", "/proc", "--size", "4096", "--tmpfs", "/proc/1"]
        options += ["--size", "65536", "--tmpfs", "/dev"]
        for device in DEVICES:
            options += ["--dev-bind", f"/dev/{device}", f"/dev/{device}"]
        for name, text in (("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")):
            options += ["--symlink", f"/proc/self/fd{text}", f"/dev/{name}"]
        for folder in SCRATCH_FOLDERS:
            options += ["--size", str(file_bytes), "--perms", "0700", "--tmpfs", folder]
        sealed = ["/dev", "/proc/1", "/proc"]
        for mount in mounts:
            if mount.kind is Kind.BIND:
                options += ["--ro-bind", mount.source, mount.target]
            elif mount.kind is Kind.COPY:
                descriptors.append(file_of(Path(mount.source).read_bytes()))
                options += ["--perms", "0444", "--ro-bind-data", str(descriptors[-1]), mount.target]
            elif mount.kind is Kind.LINK:
                options += ["--symlink", mount.source, mount.target]
            elif mount.kind is Kind.EMPTY_FILE:
                descriptors.append(file_of(b""))
                options += ["--ro-bind-data", str(descriptors[-1]), mount.target]
            else:
                options += ["--size", "4096", "--tmpfs", mount.target]
                sealed.append(mount.target)
        for folder in (*sealed, "/"):
            options += ["--remount-ro", folder]
        options += ["--chdir", SCRATCH, "--json-status-fd", str(status)]
        descriptors.append(file_of("\0".join(options).encode()))
        command = (self.path, "--args", str(descriptors[-1]), "--", *program)
        if os.geteuid() == 0 and self.user is None:
            nodes = ",".join(f"/dev/{device}" for device in DEVICES)
            # Root inside could change what root owns: the nodes are bound from read-only mounts of bubblewrap's own.
            command = (
                sys.executable,
                "-I",
                "-S",
                str(Path(__file__).with_name("launcher.py")),
                "seal",
                nodes,
                *command,
            )
        return Launch(command, tuple(descriptors), self.user)


def find_bubblewrap() -> Bubblewrap:
    """Return the installed bubblewrap; a trial must show whether it works here.

    Raises:
        SandboxUnavailableError: It is missing or too old.
    """
    path = shutil.which("bwrap")
    if path is None:
        raise SandboxUnavailableError("bwrap is not installed (Debian, Ubuntu: apt-get install bubblewrap)")
    answer = _said([path, "--version"])
    found = re.search(r"\d+(\.\d+)+", answer)
    if found is None or Version(found.group()) < _OLDEST:
        raise SandboxUnavailableError(f"{answer.strip() or path} is too old; version {_OLDEST} or newer is needed")
    return Bubblewrap(found.group(), path)


def _said(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - bwrap and its options
    return done.stdout + done.stderr
