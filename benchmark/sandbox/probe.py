"""Tries, from inside, whether a sandbox holds what it promises. Prints one line for each promise that it breaks."""

from __future__ import annotations

import ctypes
import os
import socket
import stat
import sys

_NEW_USER_NAMESPACE = 0x10000000
_SCRATCH = ("/tmp", "/dev/shm")  # noqa: S108 - the sandbox's own folders, in its own memory


def main() -> None:
    """Print what should not be possible and is."""
    for broken in _broken():
        print(broken)  # noqa: T201 - the one way to say something outside


def _broken() -> list[str]:
    found = []
    status = dict(line.split(":", 1) for line in open("/proc/self/status", encoding="utf-8"))  # noqa: SIM115
    if int(status["CapEff"], 16) or int(status["CapPrm"], 16) or int(status["CapBnd"], 16):
        found.append("it holds capabilities")
    if status["NoNewPrivs"].strip() != "1":
        found.append("it can gain privileges")
    if sum(name.isdigit() for name in os.listdir("/proc")) > 2:
        found.append("it sees other processes")
    if [name for _, name in socket.if_nameindex() if name != "lo"]:
        found.append("it sees a network")
    for folder in ("/", "/dev", f"{sys.prefix}/lib", "/proc/sys/kernel"):
        if os.access(folder, os.W_OK):
            found.append(f"it can write to {folder}")
    found += [f"it owns {place} of the host" for place in _owned()]
    found += [f"it sees {path}" for path in sys.argv[1:] if os.path.exists(path)]
    if ctypes.CDLL(None).unshare(_NEW_USER_NAMESPACE) == 0:
        found.append("it can make user namespaces")
    return found


def _owned() -> list[str]:
    """Return the mounts whose mode this process may change, and descriptors that are no pipes of its own."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as stream:
        mounts = [line.split()[4] for line in stream]
    found = [path for path in mounts if path not in _SCRATCH and os.path.exists(path) and _may_change(path)]
    return found + [f"descriptor {number}" for number in range(3) if not stat.S_ISFIFO(os.fstat(number).st_mode)]


def _may_change(path: str) -> bool:
    """Return whether the mode of a file may be changed; the trial sets the mode that the file has."""
    if os.statvfs(path).f_flag & os.ST_RDONLY:
        return False
    try:
        os.chmod(path, stat.S_IMODE(os.stat(path).st_mode))
    except OSError:
        return False
    return True


if __name__ == "__main__":
    main()
