"""Looks for probes, labels, results and other methods in every file that it can reach."""

import importlib
import importlib.metadata
import os
import sys
from pathlib import Path

from benchmark.updates import Aggregate, RoundContext, Updates
from defenses.base import Defense, Knowledge, Stage, register

HIDDEN_MODULES = (
    "benchmark.judges.oracle",
    "benchmark.execution.judging",
    "benchmark.records.store",
    "benchmark.execution.worker",
    "benchmark.training.federation",
    "benchmark.suites.suite",
    "benchmark.training.server",
    "leaderboard.rows.rows",
    "tasks.micro",
    "tasks.micro.probes",
    "tasks.micro.words",
    "tasks.micro.fresh",
    "attacks.unaligned_data",
)


def readable(path: str) -> bool:
    """Whether a file gives a byte, or a folder a name."""
    try:
        return bool(os.listdir(path)) if os.path.isdir(path) else bool(Path(path).open("rb").read(1))
    except OSError:
        return False


def importable(module: str) -> bool:
    """Whether a module that methods must not see can be imported."""
    try:
        importlib.import_module(module)
    except Exception:
        return False
    return True


def walked(names: tuple[str, ...]) -> list[str]:
    """Return the files of such names, or with such a word in their path, anywhere; links are not followed."""
    found = []
    for folder, folders, files in os.walk("/"):
        if folder in {"/proc", "/sys"}:
            folders.clear()
        found += [f"{folder}/{name}" for name in [*files, *folders] if name in names]
    return found


def traces(words: tuple[str, ...]) -> list[str]:
    """Return what tells where the benchmark lies on the machine."""
    found = []
    for path in ("/proc/self/mountinfo", "/proc/self/cmdline", "/proc/self/maps", "/proc/1/cmdline", "/proc/mounts"):
        try:
            text = Path(path).read_text(errors="replace")
        except OSError:
            continue
        found += [f"{path} tells {word}" for word in words if word in text]
    for fd in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            continue
        found += [f"descriptor {fd} tells {word}" for word in words if word in target]
    found += [f"sys.path tells {word}" for word in words if any(word in part for part in sys.path)]
    return found


@register(
    title="Reads files",
    description="Looks for the probes and everything else that would tell it how to score.",
    stages=(Stage.AGGREGATE,),
    knowledge=Knowledge.NONE,
)
class ReadsFiles(Defense):
    """Reports what it found.

    Args:
        paths: Files and folders that exist on the machine, separated by colons.
        words: What must not be told, separated by colons.
        names: Names of files that must not be anywhere, separated by colons.
        packages: Modules of other submissions, separated by colons.
    """

    def __init__(self, paths: str = "", words: str = "", names: str = "", packages: str = "") -> None:
        self.paths, self.words, self.names, self.packages = (
            tuple(filter(None, text.split(":"))) for text in (paths, words, names, packages)
        )

    def aggregate(self, updates: Updates, context: RoundContext) -> Aggregate:
        """Say what could be read."""
        if os.getpid() > 50:
            raise RuntimeError("the machine's processes are visible")
        found = [path for path in self.paths if readable(path)]
        found += [module for module in (*HIDDEN_MODULES, *self.packages) if importable(module)]
        found += [name for name in sys.modules if name.startswith(HIDDEN_MODULES)]
        found += walked(self.names) + traces(self.words)
        groups = ("fedsafety.defenses", "fedsafety.attacks", "fedsafety.judges", "fedsafety.tasks")
        found += [str(point) for group in groups for point in importlib.metadata.entry_points(group=group)]
        looked = len(self.paths) + len(self.words) + len(self.names) + len(self.packages)
        raise RuntimeError(f"{looked} things looked for, found: {found}")
