"""The same tests by a user without privileges, also where the suite is run by root."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.sandbox, pytest.mark.exhaustive]
HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
NOBODY = 65534
SELECTION = "not torch"


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A folder that every user may reach, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


def hidden_from_others(paths: Iterable[Path]) -> dict[Path, list[Path]]:
    """Return the folders that other users may not enter, with the paths below them that they need."""
    found: dict[Path, list[Path]] = {}
    for path in paths:
        closed = [parent for parent in reversed(path.parents) if not parent.stat().st_mode & 0o001]
        if closed:
            found.setdefault(closed[0], []).append(path)
    return found


def as_nobody(command: list[str], needed: Iterable[Path], hold: Path) -> list[str]:
    """Return a command that runs ``command`` as an ordinary user, for whom closed folders hold what is needed only."""
    script = ["set -e", "mount --make-rprivate /"]
    for closed, paths in hidden_from_others(needed).items():
        for number, path in enumerate(paths):
            script += [f"mkdir -p {hold}/{number}", f"mount --bind {shlex.quote(str(path))} {hold}/{number}"]
        script += [f"mount -t tmpfs -o mode=755 tmpfs {shlex.quote(str(closed))}"]
        for number, path in enumerate(paths):
            script += [f"mkdir -p {shlex.quote(str(path))}", f"mount --bind {hold}/{number} {shlex.quote(str(path))}"]
    become = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--bounding-set=-all"]
    script += [f"exec {shlex.join([*become, *command])}"]
    return ["unshare", "--mount", "sh", "-c", "\n".join(script)]


def test_isolation_and_limits_hold_for_an_ordinary_user(scratch: Path) -> None:
    own = scratch / "own"
    own.mkdir()
    files = [str(HERE / f"test_{name}.py") for name in ("isolation", "bounds", "seccomp")]
    options = ["-q", "-p", "no:cacheprovider", "--rootdir", str(ROOT), f"--basetemp={own}/pytest", "-k", SELECTION]
    command = [sys.executable, "-m", "pytest", *options, *files]
    if os.geteuid() == 0:
        assert shutil.which("setpriv"), "setpriv is part of util-linux"
        os.chown(own, NOBODY, NOBODY)
        needed = {Path(path).resolve() for path in (sys.prefix, sys.base_prefix, ROOT)}
        command = as_nobody(command, sorted(needed), scratch / "hold")
    environment = {**os.environ, "HOME": str(own), "CI": "true", "HYPOTHESIS_STORAGE_DIRECTORY": str(own)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=own, env=environment, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert " passed" in done.stdout.splitlines()[-1]
    assert " skipped" not in done.stdout.splitlines()[-1]
