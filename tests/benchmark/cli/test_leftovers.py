"""Leftovers: what a killed process left is removed by a later one, and nothing of a living process is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from benchmark.cli.leftovers import claim_folder, remove_leftovers

PROGRAM = """
import multiprocessing, sys, tempfile
from benchmark.cli.leftovers import claim_folder
folder = claim_folder()
lock = multiprocessing.get_context("forkserver").Lock()
open(tempfile.mkdtemp() + "/rows", "w").write("half")
print(folder, flush=True)
sys.stdin.read()
"""

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="semaphores are files on Linux only")


@pytest.fixture
def place() -> Iterator[Path]:
    """Return a folder of temporary files whose path is short enough for sockets."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


@contextmanager
def process(place: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Start a process that makes a temporary file and a semaphore; yield it with its folder."""
    command = [sys.executable, "-P", "-c", PROGRAM]
    environment = os.environ | {"TMPDIR": str(place)}
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as started:
        assert started.stdout is not None
        yield started, Path(started.stdout.readline().strip())


def semaphores(folder: Path) -> list[Path]:
    return list(Path("/dev/shm").glob(f"sem.{folder.name}-*"))


def kill(started: subprocess.Popen[str]) -> None:
    """Kill a process and those that clean up after it, as the shortage of memory or a batch system does."""
    os.killpg(started.pid, signal.SIGKILL)
    started.wait()


def test_leftovers_of_a_killed_process_are_removed_and_those_of_a_living_one_are_not(place: Path) -> None:
    with ExitStack() as stack:
        living, kept = stack.enter_context(process(place))
        killed, left = stack.enter_context(process(place))
        kill(killed)
        assert len(semaphores(left)) == 1
        assert list(left.glob("*/rows"))
        assert remove_leftovers(place) == 1
        assert not left.exists()
        assert semaphores(left) == []
        assert list(kept.glob("*/rows"))
        assert len(semaphores(kept)) == 1
        assert living.stdin is not None
        living.stdin.close()
        assert living.wait(60) == 0
        assert not kept.exists()
        assert semaphores(kept) == []
        assert remove_leftovers(place) == 0


def test_the_command_removes_what_a_killed_process_left(place: Path) -> None:
    with process(place) as (killed, left):
        kill(killed)
    command = [sys.executable, "-P", "-m", "benchmark.cli.start", "--version"]
    subprocess.run(command, env=os.environ | {"TMPDIR": str(place)}, check=True, stdout=subprocess.DEVNULL)
    assert not left.exists()
    assert semaphores(left) == []
    assert list(place.iterdir()) == []


def test_a_server_that_still_imports_makes_nothing_after_the_end(place: Path) -> None:
    """PyTorch makes a folder of temporary files while it is imported, and Ctrl-C does not reach the server."""
    (place / "slow_module.py").write_text(
        "import os, time\nopen(os.environ['BEGUN'], 'w').close()\ntime.sleep(0.5)\n"
        "os.makedirs(os.environ['TMPDIR'] + '/late', exist_ok=True)\n"
    )
    program = (
        "import os, time; from multiprocessing import forkserver; from benchmark.cli.leftovers import claim_folder\n"
        "claim_folder(); forkserver.set_forkserver_preload(['slow_module']); forkserver.ensure_running()\n"
        "while not os.path.exists(os.environ['BEGUN']): time.sleep(0.01)\n"
    )
    (place / "tmp").mkdir()
    environment = os.environ | {"TMPDIR": str(place / "tmp"), "BEGUN": str(place / "begun"), "PYTHONPATH": str(place)}
    subprocess.run([sys.executable, "-P", "-c", program], env=environment, check=True)
    time.sleep(1)
    assert list((place / "tmp").iterdir()) == []


def test_folders_that_no_process_has_locked_remain(place: Path) -> None:
    (place / "fedsafety-mine").mkdir()
    (place / "fedsafety-file").touch()
    (place / "fedsafety-link").symlink_to("fedsafety-mine")
    assert remove_leftovers(place) == 0
    assert len(list(place.iterdir())) == 3


def test_a_place_whose_path_is_too_long_for_sockets_is_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("long" * 20)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    assert claim_folder() is None
    assert list(long.iterdir()) == []
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    assert claim_folder() is None
