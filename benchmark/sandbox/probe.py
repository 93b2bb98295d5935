"""Tries, from inside, whether a sandbox holds what it promises. Prints one line for each promise that it breaks."""

from __future__ import annotations

import ctypes
import os
import socket
import sys

_NEW_USER_NAMESPACE = 0x10000000


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
    found += [f"it sees {path}" for path in sys.argv[1:] if os.path.exists(path)]
    if ctypes.CDLL(None).unshare(_NEW_USER_NAMESPACE) == 0:
        found.append("it can make user namespaces")
    return found


if __name__ == "__main__":
    main()
