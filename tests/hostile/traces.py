"""What a method could leave behind on the machine, read before and after."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

import torch

import defenses.base

ROOT = Path(defenses.base.__file__).resolve().parents[1]

SHARED = ("/", "/tmp", "/var/tmp", "/dev/shm", "/dev", "/run", "/etc", "/usr", "/var", "/home", "/root", "/opt", "/srv")
"""Folders that others write to as well: only the names that the methods give their files count there."""

NAMES = {"hostile", "counter", "seen", "bomb", "bomb0", "empty0", "device", "hard", "deep", "locked", "hard_link"}

LENT = (defenses.base.__file__, torch.__file__, sys.executable)
"""Files that sandboxes see and must not change."""

MULTIPROCESSING = re.compile(r"multiprocessing\.(resource_tracker|forkserver) ")
"""Command lines of the processes that multiprocessing keeps until this process ends."""

_SUBREAPER = 36
_PATIENCE = 5.0


@dataclass(frozen=True)
class Traces:
    """A look at the machine.

    Attributes:
        processes: What this process and its orphans have started and has not ended: number and command line.
        mounts: Mounts of this process's namespace.
        temporary: Files in the folder for temporary files.
        named: Files with names that the methods use, in folders that others use too.
        lent: Size and time of the files that sandboxes see.
        checkout: What git finds changed, and git's own hooks and settings.
        descriptors: How many descriptors this process holds.
    """

    processes: frozenset[str]
    mounts: frozenset[str]
    temporary: frozenset[str]
    named: frozenset[str]
    lent: frozenset[str]
    checkout: frozenset[str]
    descriptors: int


def adopt_orphans() -> None:
    """Make every orphan among this process's descendants a child of this process, so that none can hide."""
    if ctypes.CDLL(None, use_errno=True).prctl(_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "cannot adopt orphans")


def look() -> Traces:
    """Return the traces that are there now."""
    own = (str(ROOT), sys.prefix, str(Path(torch.__file__).parent), tempfile.gettempdir())
    return Traces(
        processes=frozenset(_processes()),
        mounts=frozenset(Path("/proc/self/mountinfo").read_text().splitlines()),
        temporary=frozenset(str(path) for path in Path(tempfile.gettempdir()).rglob("*")),
        named=frozenset(f"{f}/{n}" for f in (*SHARED, *own) if os.path.isdir(f) for n in NAMES & set(os.listdir(f))),
        lent=frozenset(f"{p} {os.stat(p).st_size} {os.stat(p).st_mtime_ns} {os.stat(p).st_mode:o}" for p in LENT),
        checkout=frozenset(_checkout()),
        descriptors=len(os.listdir("/proc/self/fd")),
    )


@contextmanager
def nothing_left() -> Iterator[None]:
    """Fail if there is more afterwards than before; what is about to end is given a few seconds."""
    before = look()
    yield
    patience = time.monotonic() + _PATIENCE
    while (left := _difference(before, look())) and time.monotonic() < patience:
        time.sleep(0.1)
    assert not left, left


def _difference(before: Traces, after: Traces) -> dict[str, object]:
    found: dict[str, object] = {}
    for field in fields(Traces):
        was, now = getattr(before, field.name), getattr(after, field.name)
        if field.name == "descriptors":
            # A few are opened once and kept: those of the thread that watches over sandboxes, of caches and of engines.
            if now > was + 20:
                found[field.name] = now - was
        elif field.name == "processes":
            if now - was:
                found[field.name] = sorted(now - was)
        elif now != was:
            found[field.name] = sorted(now ^ was)
    return found


def _processes() -> Iterator[str]:
    """Yield the living descendants of this process, but for what multiprocessing keeps for itself."""
    parents: dict[int, int] = {}
    commands: dict[int, str] = {}
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        try:
            state, parent, *_ = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if state not in "ZX":
            parents[pid], commands[pid] = int(parent), command
    for pid, command in commands.items():
        above, seen = pid, set()
        while above in parents and above not in seen:
            seen.add(above)
            above = parents[above]
            if above == os.getpid() and not MULTIPROCESSING.search(command) and "git" not in command[:20]:
                yield f"{pid} {command[:200]}"


def _checkout() -> Iterator[str]:
    if not (ROOT / ".git").is_dir():
        return
    command = ["git", "--no-optional-locks", "status", "--porcelain", "--", "attacks", "defenses", "results"]
    yield from subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    for path in (ROOT / ".git" / "config", *sorted((ROOT / ".git" / "hooks").glob("*"))):
        yield f"{path} {path.stat().st_mtime_ns}"
