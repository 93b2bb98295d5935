"""Makes a sandbox of the kernel's namespaces and runs one program in it.

An interpreter in isolated mode runs this file, which imports nothing of this package. There are three processes. This
one dies with the thread that started it. The first process of the new namespaces builds the view, gives up every
privilege and then waits; when it ends, the kernel ends everything inside. The third process is the program.

Root maps no user but the one that its plan names, and the first process becomes that user before it builds the view. So
no process inside owns a file of root. The sources of the view are opened before, because root alone may reach some.

With ``seal`` as its first argument, the file only makes some nodes of /dev read-only and becomes the command that
follows.

References: Linux manual, user_namespaces(7), pid_namespaces(7), pivot_root(2), mount_setattr(2), capabilities(7).
"""

from __future__ import annotations

import base64
import ctypes
import json
import os
import select
import signal
import socket
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NoReturn

_NEW_MOUNTS, _NEW_CGROUP, _NEW_UTS, _NEW_IPC = 0x00020000, 0x02000000, 0x04000000, 0x08000000
_NEW_USER, _NEW_PID, _NEW_NET = 0x10000000, 0x20000000, 0x40000000
_NAMESPACES = _NEW_MOUNTS | _NEW_CGROUP | _NEW_UTS | _NEW_IPC | _NEW_USER | _NEW_PID | _NEW_NET

_NOSUID, _NODEV, _NOEXEC, _BIND, _RECURSIVE, _PRIVATE = 2, 4, 8, 4096, 16384, 1 << 18
_ATTR_READ_ONLY, _ATTR_NOSUID, _ATTR_NODEV = 1, 2, 4
_AT_CURRENT, _AT_RECURSIVE, _DETACH = -100, 0x8000, 2
_MOUNT_SETATTR = 442  # the same number on all machines
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_CAPSET = {"x86_64": 126, "aarch64": 91}
_CAPABILITY_VERSION = 0x20080522

_PARENT_DEATH_SIGNAL, _DUMPABLE, _DROP_BOUND, _NO_NEW_PRIVILEGES, _AMBIENT, _CLEAR = 1, 4, 24, 38, 47, 4
_HOST = "/.host"
_EMPTY = "/.empty"
_UID = 65534
_INODES = 16384
_ROOM = 4 << 20
"""Bytes of the root's file system beside the copied files."""

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Read the plan from a descriptor, make the namespaces, report on the other descriptor, wait for the end."""
    plan_file, status, parent = map(int, sys.argv[1:])
    with os.fdopen(plan_file, encoding="utf-8") as stream:
        plan = json.load(stream)
    os.set_inheritable(status, False)
    _write("/proc/self/oom_score_adj", "1000")  # when memory runs out, the kernel should choose the sandbox
    user = plan["user"]
    uid, gid = (os.geteuid(), os.getegid()) if user is None else (user, user)
    _leave_groups()
    mapped = _mapper(uid, gid) if user is not None else None
    _check(_libc.unshare(_NAMESPACES), "make namespaces")
    _die_with_parent()
    if os.getppid() != parent:
        sys.exit(1)
    _write("/proc/self/setgroups", "deny")
    if mapped is None:
        _map("self", uid, gid)
    else:
        mapped()
    go, start = os.pipe()
    told, tell = os.pipe()
    first = os.fork()
    if first == 0:
        os.close(start)
        os.close(told)
        os.close(status)
        _run_first(plan, go, tell)
    os.close(go)
    os.close(tell)
    os.write(status, json.dumps({"child-pid": first}).encode())
    os.write(start, b"!")
    ready = os.read(told, 1)
    _, ending = os.waitpid(first, 0)
    code = os.waitstatus_to_exitcode(ending)
    code = 128 - code if code < 0 else code
    if ready:
        os.write(status, json.dumps({"exit-code": code}).encode())
    sys.exit(code)


def seal_devices(nodes: str, command: list[str]) -> NoReturn:
    """Become ``command``, for which every node in the list ``nodes`` is on a read-only mount.

    A node on such a mount can be read and written, and its mode, owner and times cannot be changed.

    Raises:
        OSError: This process may not mount.
    """
    _leave_groups()
    _check(_libc.unshare(_NEW_MOUNTS), "make a mount namespace")
    _mount(None, "/", None, _RECURSIVE | _PRIVATE)
    for node in nodes.split(","):
        _bind(node, node, _ATTR_READ_ONLY)
    os.execv(command[0], command)  # noqa: S606 - no shell is wanted


def _leave_groups() -> None:
    """Leave the further groups of this process, where it may; an ordinary user may not."""
    with suppress(PermissionError):
        os.setgroups([])


def _mapper(uid: int, gid: int) -> Callable[[], None]:
    """Return a function that has one user and group mapped into this process's new namespace.

    Only a process outside the namespace may map a user other than its own. It waits for the call.
    """
    target = os.getpid()
    wait, ask = os.pipe()
    done, tell = os.pipe()
    if os.fork() == 0:
        code = 1
        os.close(ask)
        try:
            if os.read(wait, 1):
                _map(str(target), uid, gid)
                os.write(tell, b"!")
                code = 0
        except OSError as error:
            os.write(2, f"namespaces: cannot map user {uid}: {error.strerror}\n".encode())
        os._exit(code)
    os.close(wait)
    os.close(tell)

    def call() -> None:
        os.write(ask, b"!")
        if not os.read(done, 1):
            raise OSError(0, f"cannot map user {uid}")
        os.close(ask)
        os.close(done)
        os.wait()

    return call


def _map(process: str, uid: int, gid: int) -> None:
    _write(f"/proc/{process}/uid_map", f"{_UID} {uid} 1")
    _write(f"/proc/{process}/gid_map", f"{_UID} {gid} 1")


def _run_first(plan: dict[str, Any], go: int, tell: int) -> NoReturn:
    """Be the first process of the namespaces; never returns."""
    code = 1
    try:
        _die_with_parent()
        if os.read(go, 1):  # else the parent died before it was bound to
            socket.sethostname("sandbox")
            sources = _opened(plan["mounts"], plan["devices"])
            if plan["user"] is not None:
                _become_mapped(go)
            _build(plan["mounts"], plan["devices"], plan["file_bytes"], sources)
            _give_up_privileges()
            _libc.prctl(_DUMPABLE, 0, 0, 0, 0)  # so that the program cannot read this memory
            program = os.fork()
            if program == 0:
                os.setsid()
                os.chdir(plan["folder"])
                os.execve(plan["program"][0], plan["program"], plan["environment"])  # noqa: S606 - no shell is wanted
            os.write(tell, b"!")
            code = _wait_for(program)
    except (OSError, KeyError, ValueError) as error:
        os.write(2, f"namespaces: {error}\n".encode())
    os._exit(code)


def _opened(mounts: Sequence[Sequence[str]], devices: Sequence[str]) -> dict[str, int]:
    """Return a descriptor of each path of the host that is to be mounted."""
    paths = [source for kind, _, source in mounts if kind == "BIND"]
    paths += [f"/dev/{device}" for device in devices]
    return {path: os.open(path, os.O_PATH) for path in paths}


def _become_mapped(go: int) -> None:
    """Become the one user that the namespace has; the capabilities in the namespace stay.

    Raises:
        OSError: The parent has died meanwhile.
    """
    os.setresgid(_UID, _UID, _UID)
    os.setresuid(_UID, _UID, _UID)
    _die_with_parent()  # the kernel forgets the signal with the user
    poll = select.poll()
    poll.register(go, select.POLLHUP)
    if any(event & select.POLLHUP for _, event in poll.poll(0)):
        raise OSError(0, "the parent has died")


def _build(
    mounts: Sequence[Sequence[str]], devices: Sequence[str], file_bytes: int, sources: Mapping[str, int]
) -> None:
    """Replace the root by one that holds nothing but ``mounts``, a /proc, a /dev and two scratch folders."""
    _mount(None, "/", None, _RECURSIVE | _PRIVATE)
    copied = sum(len(source) for kind, _, source in mounts if kind == "COPY")
    base = next(folder for folder in ("/tmp", "/run", "/mnt") if os.path.isdir(folder))  # noqa: S108 - covered at once
    os.umask(0o022)
    _mount("tmpfs", base, "tmpfs", _NOSUID | _NODEV, f"size={_ROOM + 2 * copied},mode=0755")
    os.mkdir(base + _HOST)
    _check(_libc.syscall(_PIVOT_ROOT[os.uname().machine], base.encode(), (base + _HOST).encode()), "change the root")
    os.chdir("/")
    _write(f"{_HOST}/proc/sys/user/max_user_namespaces", "0")
    _write(_EMPTY, "")
    sealed = ["/", *_kernel_folders(devices, sources)]
    for folder in ("/tmp", "/dev/shm"):  # noqa: S108 - paths inside
        os.makedirs(folder, exist_ok=True)
        _mount("tmpfs", folder, "tmpfs", _NOSUID | _NODEV, f"size={file_bytes},nr_inodes={_INODES},mode=0700")
    for kind, target, source in mounts:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if kind == "LINK":
            os.symlink(source, target)
        elif kind == "COPY":
            with open(target, "xb") as stream:
                stream.write(base64.b64decode(source))
        elif kind == "EMPTY_FOLDER":
            os.makedirs(target, exist_ok=True)
            _mount("tmpfs", target, "tmpfs", _NOSUID | _NODEV, "size=4k,mode=0755")
            sealed.append(target)
        else:
            place = _EMPTY if kind == "EMPTY_FILE" else _place(sources[source])
            _bind(place, target, _ATTR_READ_ONLY | _ATTR_NODEV)
    os.unlink(_EMPTY)
    _check(_libc.umount2(_HOST.encode(), _DETACH), "leave the old root")
    os.rmdir(_HOST)
    for folder in sealed:
        _set_attributes(folder, _ATTR_READ_ONLY)


def _place(source: int) -> str:
    """Return a path that leads to an open file or folder of the host."""
    return f"{_HOST}/proc/self/fd/{source}"


def _kernel_folders(devices: Sequence[str], sources: Mapping[str, int]) -> tuple[str, ...]:
    """Mount /proc and /dev; returns what is to be made read-only at the end."""
    os.mkdir("/proc")
    # Where /proc has parts covered, as in most containers, the kernel refuses a second one.
    _mount("proc", "/proc", "proc", _NOSUID | _NODEV | _NOEXEC)
    _mount("tmpfs", "/proc/1", "tmpfs", _NOSUID | _NODEV, "size=4k,mode=0755")  # this process and its arguments
    os.mkdir("/dev")
    _mount("tmpfs", "/dev", "tmpfs", _NOSUID, "size=64k,mode=0755")
    for device in devices:
        _bind(_place(sources[f"/dev/{device}"]), f"/dev/{device}", _ATTR_READ_ONLY)
    for name, text in (("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")):
        os.symlink(f"/proc/self/fd{text}", f"/dev/{name}")
    return "/proc/1", "/proc", "/dev"


def _bind(source: str, target: str, attributes: int) -> None:
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    elif not os.path.lexists(target):
        _write(target, "")
    _mount(source, target, None, _BIND | _RECURSIVE)
    _set_attributes(target, attributes | _ATTR_NOSUID, _AT_RECURSIVE)


def _give_up_privileges() -> None:
    _check(_libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0), "give up new privileges")
    capability = 0
    while _libc.prctl(_DROP_BOUND, capability, 0, 0, 0) == 0:  # the kernel knows how many there are
        capability += 1
    _libc.prctl(_AMBIENT, _CLEAR, 0, 0, 0)  # there are none where the kernel does not know them
    header = struct.pack("=Ii", _CAPABILITY_VERSION, 0)
    _check(_libc.syscall(_CAPSET[os.uname().machine], header, bytes(24)), "drop capabilities")


def _wait_for(program: int) -> int:
    """Reap orphans until ``program`` has ended; returns its status, or 128 and the number of the signal."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # which the first process of a namespace ignores
    os.closerange(3, 1 << 16)
    while True:
        pid, status = os.wait()
        if pid == program:
            code = os.waitstatus_to_exitcode(status)
            return 128 - code if code < 0 else code


def _die_with_parent() -> None:
    _check(_libc.prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0), "die with the parent")


def _mount(source: str | None, target: str, kind: str | None, flags: int, options: str = "") -> None:
    encoded = [None if text is None else text.encode() for text in (source, target, kind)]
    _check(_libc.mount(*encoded, ctypes.c_ulong(flags), options.encode()), f"mount {target}")


def _set_attributes(target: str, attributes: int, flags: int = 0) -> None:
    settings = struct.pack("=QQQQ", attributes, 0, 0, 0)
    arguments = (_AT_CURRENT, target.encode(), flags, settings, ctypes.c_size_t(len(settings)))
    _check(_libc.syscall(_MOUNT_SETATTR, *arguments), f"set attributes of {target}")


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8") as stream:
        stream.write(text)


def _check(answer: int, what: str) -> None:
    if answer != 0:
        raise OSError(ctypes.get_errno(), f"cannot {what}: {os.strerror(ctypes.get_errno())}")


if __name__ == "__main__":
    try:
        if sys.argv[1] == "seal":
            seal_devices(sys.argv[2], sys.argv[3:])
        main()
    except OSError as error:
        sys.exit(f"namespaces: {error.strerror}")
