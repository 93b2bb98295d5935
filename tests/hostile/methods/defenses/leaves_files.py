"""Keeps a counter wherever it may write, to learn in a later process that it ran before."""

import os
import tempfile
from pathlib import Path

from benchmark.updates import Aggregate, RoundContext, Updates
from defenses.base import Defense, Knowledge, Stage, register

FOLDERS = (".", "/tmp", "/var/tmp", "/dev/shm", "/run", "/fedsafety", "/dev", "/root", "/home", tempfile.gettempdir())


@register(
    title="Leaves files",
    description="Counts in a file how many processes of it there have been.",
    stages=(Stage.AGGREGATE, Stage.FINALIZE),
    knowledge=Knowledge.NONE,
)
class LeavesFiles(Defense):
    """Reports what it found from before."""

    def aggregate(self, updates: Updates, context: RoundContext) -> Aggregate:
        """Leave notes in the first round; fail in every round with what was found from before and what was left."""
        if os.getpid() > 50:
            raise RuntimeError("the machine's processes are visible")
        if context.index == 0:
            self.found = [folder for folder in FOLDERS if os.path.exists(f"{folder}/counter")]
            self.left = []
            for folder in FOLDERS:
                try:
                    Path(folder, "counter").write_text("1")
                except OSError:
                    continue
                self.left.append(folder)
            os.symlink("/", "root") if "." in self.left else None
            os.makedirs("deep/" * 50) if "." in self.left else None
            Path("locked").mkdir(mode=0o000) if "." in self.left else None
            return super().aggregate(updates, context)
        raise RuntimeError(f"found from before: {self.found}; left now: {len(self.left) > 0}")
