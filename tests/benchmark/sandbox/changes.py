"""Program for the inside of a sandbox: tries to change the attributes and locks of everything that it can name.

Each trial sets what is there already, or cannot succeed, so that a sandbox that leaks does no harm. The program prints,
for each of two phases, without and with the filter of system calls, which trials the kernel did not refuse.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import platform
import stat
from collections.abc import Callable, Iterator

import seccomp

REFUSED = {errno.EPERM, errno.EROFS, errno.EACCES}
X86 = platform.machine() == "x86_64"
HERE, SET_FLAGS, SET_ATTRIBUTES, NO_DEVICE = -100, 0x40086602, 0x401C5820, 0
OWN = ("/", "/dev", "/dev/shm", "/proc", "/proc/1", "/tmp")
libc = ctypes.CDLL(None, use_errno=True)

Trials = Iterator[tuple[str, Callable[[], object]]]


def raw(name: str, *arguments: object) -> None:
    number = seccomp._DENIED[name][0 if X86 else 1]
    if number is None:
        raise PermissionError(errno.EPERM, "this machine has no such call")
    if libc.syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), "it failed")


def of_path(path: str) -> Trials:
    state, name = os.stat(path), path.encode()
    mode, times = stat.S_IMODE(state.st_mode), (state.st_atime_ns, state.st_mtime_ns)
    yield "chmod", lambda: os.chmod(path, mode)
    yield "fchmodat2", lambda: raw("fchmodat2", HERE, name, mode, 0)
    yield "chown", lambda: os.chown(path, state.st_uid, state.st_gid)
    yield "lchown", lambda: os.lchown(path, -1, -1)
    yield "utimensat", lambda: os.utime(path, ns=times)
    yield "utime", lambda: raw("utime", name, (ctypes.c_long * 2)(int(state.st_atime), int(state.st_mtime)))
    # Replaces and removes an attribute that is not there.
    yield "setxattr", lambda: os.setxattr(path, "user.none", b"", os.XATTR_REPLACE)
    yield "removexattr", lambda: os.removexattr(path, "user.none")


def of_descriptor(fd: int) -> Trials:
    state = os.fstat(fd)
    yield "fchmod", lambda: os.fchmod(fd, stat.S_IMODE(state.st_mode))
    yield "fchown", lambda: os.fchown(fd, -1, -1)
    yield "futimens", lambda: os.utime(fd, ns=(state.st_atime_ns, state.st_mtime_ns))
    yield "fsetxattr", lambda: os.setxattr(fd, "user.none", b"", os.XATTR_REPLACE)
    yield "fremovexattr", lambda: os.removexattr(fd, "user.none")


def only_filtered(path: str) -> Trials:
    """Yield calls that no read-only mount refuses, since they change nothing that is stored."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    yield "flock", lambda: fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    yield "lock", lambda: fcntl.lockf(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    yield "lease", lambda: fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    yield "notice", lambda: fcntl.fcntl(fd, fcntl.F_NOTIFY, 0)
    yield "signals", lambda: fcntl.fcntl(fd, fcntl.F_SETOWN, 0)
    # Without an address of flags they fail, whoever may ask.
    yield "flags", lambda: libc.ioctl(fd, SET_FLAGS, None) and fail()
    yield "attributes", lambda: libc.ioctl(fd, SET_ATTRIBUTES, None) and fail()
    yield "inotify_add_watch", lambda: raw("inotify_add_watch", -1, path.encode(), 2)
    yield "syncfs", lambda: raw("syncfs", -1)
    os.close(fd)


def of_scratch() -> Trials:
    yield "node", lambda: raw("mknodat", HERE, b"/tmp/node", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    yield "link", lambda: os.link("/proc/self/exe", "/tmp/link", follow_symlinks=True)
    yield "inotify", lambda: raw("inotify_init1", 0)


def fail() -> None:
    raise OSError(ctypes.get_errno(), "it failed")


def reached(trials: Trials) -> list[str]:
    found = []
    for name, call in trials:
        try:
            call()
            found.append(name)
        except OSError as error:
            if error.errno not in REFUSED:
                found.append(name)
    return found


def named() -> tuple[set[str], set[int]]:
    """Return every path and every descriptor that leads to something from outside."""
    with open("/proc/self/mountinfo") as mounts, open("/proc/self/maps") as maps:
        paths = {line.split()[4] for line in mounts} | {f"/dev/{name}" for name in os.listdir("/dev")}
        paths |= {line.split(maxsplit=5)[5].strip() for line in maps if " /" in line}
    own = {os.stat(path).st_dev for path in OWN if os.path.exists(path)}
    outside = {path: os.stat(path) for path in paths if os.path.exists(path)}
    paths = {path for path, s in outside.items() if s.st_dev not in own and not stat.S_ISFIFO(s.st_mode)}
    return paths, {int(name) for name in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{name}")}


def attempts(paths: set[str], descriptors: set[int], *, filtered: bool) -> dict[str, list[str]]:
    found = {path: reached(of_path(path)) for path in sorted(paths)}
    for fd in sorted(descriptors):
        if filtered or not (stat.S_ISFIFO(os.fstat(fd).st_mode) or "memfd:" in os.readlink(f"/proc/self/fd/{fd}")):
            found[f"descriptor {fd}"] = reached(of_descriptor(fd))
    if filtered:
        for path in sorted(paths):
            found[path] += reached(only_filtered(path))
        found["scratch"] = reached(of_scratch())
    return {place: calls for place, calls in found.items() if calls}


def main() -> None:
    paths, descriptors = named()
    groups = [group for group in os.getgroups() if group != os.getgid()]
    with open("/proc/self/uid_map") as users:
        mapped = [line.split()[:3] for line in users]
    unfiltered = attempts(paths, descriptors, filtered=False)
    seccomp.install()
    filtered = attempts(paths, descriptors, filtered=True)
    print(json.dumps([sorted(paths), len(descriptors), groups, mapped, unfiltered, filtered]))  # noqa: T201 - read by the test


if __name__ == "__main__":
    main()
