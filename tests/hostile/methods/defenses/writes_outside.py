"""Writes where nothing of it may stay, and changes what it was only lent."""

import ctypes
import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch

import defenses.base
from benchmark.updates import Aggregate, RoundContext, Updates
from defenses.base import Defense, Knowledge, Stage, register

KERNEL = ("/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/proc/1/oom_score_adj", "/proc/1/mem", "/dev/mem")
NEW_ROOTS = 0x20000 | 0x10000000  # a mount and a user namespace of its own


def system(name: str, *arguments: object) -> None:
    """Call the C library; raise if it fails."""
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        raise OSError(ctypes.get_errno(), name)


def write(path: str) -> None:
    """Leave a file, or add to one that is there."""
    target = f"{path}/hostile" if os.path.isdir(path) else path
    with open(target, "a") as stream:
        stream.write("hostile")


def writable(path: str) -> None:
    """Open a file for writing and leave it as it is, since a sandbox that fails must not cost the checkout."""
    os.close(os.open(path, os.O_WRONLY))


def through_link(path: str) -> None:
    """Write through a link in the scratch folder."""
    os.symlink(path, f"link{abs(hash(path))}")
    write(f"link{abs(hash(path))}")


def attempts(paths: tuple[str, ...]) -> dict[str, Callable[[], object]]:
    """Return what is tried, by name."""
    base, library = defenses.base.__file__, torch.__file__
    own = __file__
    folders = ("/", "/etc", "/usr", "/var", "/var/tmp", "/home", "/root", "/run")
    folders += ("/sys/fs/cgroup", "/opt", "/srv", "/fedsafety")
    folders += (str(Path(base).parent), str(Path(own).parent), str(Path(library).parent), sys.prefix, sys.base_prefix)
    return {
        **{f"write {path}": (lambda path=path: write(path)) for path in (*paths, *folders)},
        **{f"link {path}": (lambda path=path: through_link(path)) for path in paths},
        **{f"open {path}": (lambda path=path: writable(path)) for path in (base, own, library, *KERNEL)},
        "length of base": lambda: os.truncate(base, os.path.getsize(base)),
        "mode of base": lambda: os.chmod(base, os.stat(base).st_mode & 0o777),
        "owner of base": lambda: os.chown(base, os.stat(base).st_uid, os.stat(base).st_gid),
        "time of base": lambda: os.utime(base, (os.stat(base).st_atime, os.stat(base).st_mtime)),
        "rename itself": lambda: os.rename(own, f"{own}.old"),
        "unlink itself": lambda: os.unlink(own),
        "attribute of base": lambda: os.setxattr(base, "user.hostile", b"x"),
        "hard link": lambda: os.link(base, "hard"),
        "device": lambda: os.mknod("device", 0o60600, os.makedev(254, 0)),
        "mount": lambda: system("mount", b"none", b".", b"tmpfs", 0, None),
        "bind": lambda: system("mount", b"/", b".", None, 4096, None),
        "remount": lambda: system("mount", b"none", b"/", None, 32 | 4096, None),
        "unmount": lambda: system("umount2", b"/fedsafety", 2),
        "move root": lambda: system("pivot_root", b".", b"."),
        "change root": lambda: os.chroot("/proc/1/root"),
        "namespaces": lambda: system("unshare", NEW_ROOTS),
        "join": lambda: system("setns", os.open("/proc/1/ns/mnt", os.O_RDONLY), 0),
        "name of the machine": lambda: system("sethostname", os.uname().nodename.encode(), len(os.uname().nodename)),
        "more memory": lambda: raise_limits(),
    }


def raise_limits() -> None:
    """Take back the limits that were set."""
    import resource

    raised = []
    for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA, resource.RLIMIT_CPU, resource.RLIMIT_FSIZE):
        hard = resource.getrlimit(kind)[1]
        if hard == resource.RLIM_INFINITY:
            continue
        try:
            resource.setrlimit(kind, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        except (ValueError, OSError):
            continue
        raised.append(kind)
    if not raised:
        raise PermissionError("no limit could be raised")


@register(
    title="Writes outside",
    description="Leaves files where the next run would find them.",
    stages=(Stage.AGGREGATE,),
    knowledge=Knowledge.NONE,
)
class WritesOutside(Defense):
    """Reports where it could write.

    Args:
        paths: Folders of the machine, separated by colons.
    """

    def __init__(self, paths: str = "") -> None:
        self.paths = tuple(filter(None, paths.split(":")))

    def aggregate(self, updates: Updates, context: RoundContext) -> Aggregate:
        """Say what could be changed."""
        if os.getpid() > 50:
            raise RuntimeError("the machine's processes are visible")
        through, tried = [], attempts(self.paths)
        for name, attempt in tried.items():
            try:
                attempt()
            except Exception:
                continue
            through.append(name)
        raise RuntimeError(f"{len(tried)} ways tried, open: {through}")
