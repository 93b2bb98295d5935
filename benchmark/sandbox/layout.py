"""Files of the machine in every sandbox: the interpreter and its libraries, without the benchmark and its plug-ins.

Nothing else of the file system exists inside: no home, no checkout, no results, no caches. An environment that lies
inside the checkout is mounted without the checkout.
"""

from __future__ import annotations

import os
import re
import site
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from functools import lru_cache
from importlib.metadata import Distribution, distributions
from pathlib import Path, PurePosixPath

SCRATCH = "/tmp"  # noqa: S108 - a path inside the sandbox, where nothing else exists
SCRATCH_FOLDERS = (SCRATCH, "/dev/shm")  # noqa: S108 - the same
"""The only writable folders inside."""
LIBRARY = "/fedsafety"
"""Folder inside with the visible files of this library."""
SUBMISSION = "/submission"
"""Folder inside with a submission's own files. No interpreter searches it by default: the process adds it to the search
path once it is bounded and filtered."""
BOOT = "/run/boot.py"
DEVICES = ("full", "null", "random", "urandom", "zero")
"""The only nodes in /dev. Each is the host's own node, on a read-only mount: it can be used and not be changed."""
_DISTRIBUTION = "fedsafetybench"
_ENTRY_POINTS = "fedsafety."
_SYSTEM_LIBRARIES = (
    "/lib",
    "/lib32",
    "/lib64",
    "/usr/lib",
    "/usr/lib32",
    "/usr/lib64",
    "/usr/local/lib",
    "/usr/local/lib64",
)


class Kind(Enum):
    """Kind of entry at a path inside the sandbox."""

    BIND = auto()
    """A file or folder of the host, read-only."""
    COPY = auto()
    """A copy of a file of the host, so that no descriptor inside leads to the host's file."""
    LINK = auto()
    """A symbolic link."""
    EMPTY_FOLDER = auto()
    EMPTY_FILE = auto()


@dataclass(frozen=True)
class Mount:
    """Entry inside the sandbox: ``target`` is the path inside, ``source`` a path of the host or a link's text."""

    kind: Kind
    target: str
    source: str = ""


def layout(visible: Mapping[str, Path]) -> tuple[Mount, ...]:
    """Return the mounts of a sandbox besides /proc, /dev and the scratch folders, parents before children.

    Args:
        visible: Path inside the sandbox → host file, of which the sandbox gets a copy.
    """
    boot = Mount(Kind.COPY, BOOT, str(Path(__file__).with_name("boot.py")))
    mounts = [Mount(Kind.COPY, target, os.path.realpath(source)) for target, source in visible.items()]
    return (*_machine(), boot, *sorted(mounts, key=lambda mount: mount.target))


def program(module: str, args: Sequence[str], bounds: Mapping[str, int]) -> list[str]:
    """Return the command inside the sandbox that runs ``module`` under ``bounds`` (name of a resource → limit)."""
    settings = "{" + ", ".join(f'"{name}": {bound}' for name, bound in bounds.items()) + "}"
    return [sys.executable, "-P", BOOT, settings, module, *args]


def environment() -> dict[str, str]:
    """Return the environment inside: the same on every machine, except for paths of packages outside the prefix."""
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": SCRATCH,
        "TMPDIR": SCRATCH,
        "USER": "sandbox",
        "LOGNAME": "sandbox",
        "LANG": "C.UTF-8",
        "PYTHONPATH": ":".join([LIBRARY, *_packages_outside_prefix()]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONNOUSERSITE": "1",
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "ARROW_DEFAULT_MEMORY_POOL": "system",
        **library_path(),
    }


def library_path() -> dict[str, str]:
    """Return ``LD_LIBRARY_PATH``, by which interpreters may find libraries, reduced to folders visible inside."""
    places = os.environ.get("LD_LIBRARY_PATH", "").split(":")
    shown = [place for place in places if place and any(_lies_in(place, target) for target, _ in _bound())]
    return {"LD_LIBRARY_PATH": ":".join(shown)} if shown else {}


def is_hidden(path: Path) -> bool:
    """Return whether a file of an installed package is hidden inside."""
    real = os.path.realpath(path)
    shown = max((source for _, source in _bound() if _lies_in(real, source)), key=len, default="")
    return not shown or any(_lies_in(real, hidden) and _lies_in(hidden, shown) for hidden in _hidden())


@lru_cache(maxsize=1)
def _machine() -> tuple[Mount, ...]:
    binds = dict(_bound())
    mounts = {target: Mount(Kind.BIND, target, source) for target, source in binds.items()}
    for target, text in _links():
        mounts[target] = Mount(Kind.LINK, target, text)
    for hidden in _hidden():
        kind = Kind.EMPTY_FOLDER if os.path.isdir(hidden) else Kind.EMPTY_FILE
        for target, source in binds.items():
            if _lies_in(hidden, source):
                inside = str(PurePosixPath(target) / PurePosixPath(hidden).relative_to(source))
                mounts[inside] = Mount(kind, inside)
    shown = (mount for mount in mounts.values() if mount.kind is Kind.BIND or not _in_empty_folder(mount, mounts))
    return tuple(sorted(shown, key=lambda mount: PurePosixPath(mount.target).parts))


def _in_empty_folder(mount: Mount, mounts: Mapping[str, Mount]) -> bool:
    above = (str(parent) for parent in PurePosixPath(mount.target).parents)
    nearest = next((mounts[path] for path in above if path in mounts), None)
    return nearest is not None and nearest.kind is Kind.EMPTY_FOLDER


def _bound() -> Iterator[tuple[str, str]]:
    """Yield path inside, real path on the host."""
    # Debian's links to mathematical libraries go through /etc/alternatives.
    folders = [*_SYSTEM_LIBRARIES, "/etc/alternatives", *_packages_outside_prefix()]
    for prefix in _prefixes():
        folders += [f"{prefix}/lib", f"{prefix}/lib64"]
    for folder in folders:
        if os.path.isdir(folder) and not os.path.islink(folder):
            yield folder, os.path.realpath(folder)
    interpreter = os.path.realpath(sys.executable)
    files = [interpreter, f"{sys.prefix}/pyvenv.cfg", "/etc/ld.so.cache"]
    for file in files:
        if os.path.isfile(file):
            yield file, os.path.realpath(file)


def _links() -> Iterator[tuple[str, str]]:
    if os.path.realpath(sys.executable) != sys.executable:
        yield sys.executable, os.path.realpath(sys.executable)
    for folder in [*_SYSTEM_LIBRARIES, *(f"{prefix}/{name}" for prefix in _prefixes() for name in ("lib", "lib64"))]:
        if os.path.islink(folder):
            yield folder, os.readlink(folder)


def _prefixes() -> list[str]:
    """Return the folders of the interpreter and of the virtual environment, each also by its real path."""
    prefixes = (sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix)
    every = dict.fromkeys([*prefixes, *map(os.path.realpath, prefixes), *_installation()])
    return [prefix for prefix in every if prefix not in ("/", "/usr", "/usr/local")]


def _installation() -> Iterator[str]:
    """Yield the folder whose ``bin`` holds the interpreter, because libraries are found relative to that folder."""
    folder = Path(os.path.realpath(sys.executable)).parent
    if folder.name == "bin":
        yield str(folder.parent)


def _packages_outside_prefix() -> list[str]:
    folders = [*site.getsitepackages(), *([site.getusersitepackages()] if site.ENABLE_USER_SITE else [])]
    roots = [*_SYSTEM_LIBRARIES, *(f"{prefix}/lib" for prefix in _prefixes())]
    return [f for f in folders if os.path.isdir(f) and not any(_lies_in(os.path.realpath(f), r) for r in roots)]


@lru_cache(maxsize=1)
def _hidden() -> frozenset[str]:
    """Return the real paths that this benchmark, and packages that offer methods for it, have installed."""
    return frozenset(os.path.realpath(path) for path in _of_benchmark())


def _of_benchmark() -> Iterator[Path]:
    root = Path(__file__).resolve().parents[2]
    for package in ("attacks", "benchmark", "defenses", "leaderboard", "tasks"):
        yield root / package
    if (root / "pyproject.toml").is_file():
        yield root
    for distribution in distributions():
        if _is_ours(distribution):
            yield from _installed(distribution)


def _is_ours(distribution: Distribution) -> bool:
    name = re.sub(r"[-_.]+", "-", distribution.metadata["Name"] or "").lower()
    return name == _DISTRIBUTION or any(p.group.startswith(_ENTRY_POINTS) for p in distribution.entry_points)


def _installed(distribution: Distribution) -> Iterator[Path]:
    """Yield each file of a distribution, or the highest folder above it that is the distribution's alone."""
    root = Path(str(distribution.locate_file("")))
    for file in distribution.files or ():
        path = Path(str(distribution.locate_file(file)))
        above = [parent for parent in path.parents if parent != root and _lies_in(str(parent), str(root))]
        alone = [p for p in above if (p / "__init__.py").exists() or p.suffix in (".dist-info", ".egg-info", ".data")]
        place = alone[-1] if alone else path
        if place.exists():
            yield place


def _lies_in(path: str, folder: str) -> bool:
    return PurePosixPath(path).is_relative_to(folder)


def check_visible(visible: Mapping[str, Path]) -> Iterable[str]:
    """Yield one line for each entry of ``visible`` that is not an absolute path to a regular file."""
    for target, source in visible.items():
        if not target.startswith("/") or ".." in PurePosixPath(target).parts:
            yield f"{target!r} is not an absolute path inside the sandbox"
        elif not source.exists() or not stat.S_ISREG(source.stat().st_mode):
            yield f"{source} is not a regular file"
