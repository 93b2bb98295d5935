"""Folders that appear complete or not at all, one process at a time, and contexts in which nothing is fetched."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from filelock import FileLock

from benchmark.errors import StorageError
from tasks.hub.fetching import completed, may_fetch, silent, without_fetching


def never() -> bool:
    return False


def test_the_place_appears_with_all_of_its_files_or_not_at_all(tmp_path: Path) -> None:
    place = tmp_path / "cache" / "model"
    with completed(place, place.exists, silent) as folder:
        assert folder is not None
        (folder / "weights").write_text("half")
        assert not place.exists()
    assert (place / "weights").read_text() == "half"
    with completed(place, place.exists, silent) as folder:
        assert folder is None
    other = tmp_path / "cache" / "other"

    def fail(error: type[BaseException]) -> None:
        with completed(other, never, silent) as folder:
            assert folder is not None
            (folder / "weights").write_text("half")
            raise error

    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error):
            fail(error)
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == [".model.lock", ".other.lock", "model"]


def test_a_damaged_place_is_replaced(tmp_path: Path) -> None:
    place = tmp_path / "model"
    place.mkdir()
    (place / "damaged").touch()
    with completed(place, never, silent) as folder:
        assert folder is not None
        (folder / "whole").touch()
    assert [path.name for path in place.iterdir()] == ["whole"]


KILLED = """
import os, signal, sys
from pathlib import Path
from tasks.hub.fetching import completed
with completed(Path(sys.argv[1]), lambda: False, print) as folder:
    (folder / "weights").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_remains_of_a_killed_process_do_not_count_and_go(tmp_path: Path) -> None:
    place = tmp_path / "model"
    assert subprocess.run([sys.executable, "-c", KILLED, str(place)], check=False).returncode == -9
    (remains,) = tmp_path.glob(".model.part-*")
    assert not place.exists()
    with completed(place, place.exists, silent) as folder:
        assert folder is not None
        assert not remains.exists()
    assert place.is_dir()


def test_a_second_process_waits_and_finds_the_place_complete(tmp_path: Path) -> None:
    place = tmp_path / "model"
    lines: list[str] = []
    waiting = threading.Event()

    def say(line: str) -> None:
        lines.append(line)
        waiting.set()

    found: list[Path | None] = []

    def second() -> None:
        with completed(place, place.exists, say) as folder:
            found.append(folder)

    with FileLock(tmp_path / ".model.lock"):
        thread = threading.Thread(target=second)
        thread.start()
        assert waiting.wait(60)
        place.mkdir()
    thread.join(60)
    assert found == [None]
    assert lines == ["waiting for another process that prepares model"]


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    place = tmp_path / "file" / "model"
    with (
        pytest.raises(StorageError, match=r"file/model cannot be written: .*; .* another folder with FEDSAFETY_CACHE"),
        completed(place, never, silent),
    ):
        pass


def test_permission_ends_with_its_context() -> None:
    def fail() -> None:
        with without_fetching():
            assert not may_fetch()
            raise ValueError("inside")

    assert may_fetch()
    with pytest.raises(ValueError, match="inside"):
        fail()
    assert may_fetch()
