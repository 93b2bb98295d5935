"""Remembered rounds on disk: whole or absent, bounded, and held by one process at a time."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmark.errors import StorageError
from benchmark.records.remembered import RememberedRound, RememberedRounds

ENTRY = RememberedRound(np.arange(500, dtype=np.float32).reshape(5, 100), np.arange(5) / 3, 1.25)


def files(memory: RememberedRounds) -> list[str]:
    return sorted(path.name for path in memory.folder.iterdir()) if memory.folder.exists() else []


def age(memory: RememberedRounds, key: str, seconds: int) -> None:
    """Set the last use of an entry."""
    os.utime(memory.folder / f"{key}.safetensors", (seconds, seconds))


@pytest.fixture
def memory(tmp_path: Path) -> RememberedRounds:
    """A memory with room for three entries."""
    return RememberedRounds.of(tmp_path, 3 * ENTRY.size)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_entry_comes_back_bit_for_bit(memory: RememberedRounds, dtype: type) -> None:
    numbers = np.array([[0.1, -0.0, np.inf], [np.nan, 1e-45, 3.0]], dtype=dtype)
    assert memory.read("a") is None
    assert memory.write("a", replace(ENTRY, adapters=numbers))
    entry = memory.read("a")
    assert entry is not None
    assert entry.adapters.dtype == dtype
    assert entry.adapters.tobytes() == numbers.tobytes()
    assert entry.losses.tobytes() == ENTRY.losses.tobytes()
    assert entry.seconds == 1.25
    assert memory.used == {"a"}
    assert files(memory) == ["a.safetensors"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:50],
        lambda content: content[:-1],
        lambda content: content + b"x",
        lambda content: content[:-900] + bytes([content[-900] ^ 1]) + content[-899:],
        lambda content: content.replace(b"1.25", b"1.26"),
        lambda content: b"\xff" * len(content),
    ],
)
def test_a_damaged_entry_is_removed_and_never_read(memory: RememberedRounds, damage: object) -> None:
    memory.write("a", ENTRY)
    path = memory.folder / "a.safetensors"
    content = damage(path.read_bytes())  # type: ignore[operator]
    assert content != path.read_bytes()
    path.write_bytes(content)
    assert memory.read("a") is None
    assert files(memory) == []


def test_an_entry_under_another_name_and_a_folder_are_no_entries(memory: RememberedRounds) -> None:
    memory.write("a", ENTRY)
    (memory.folder / "a.safetensors").rename(memory.folder / "b.safetensors")
    (memory.folder / "c.safetensors").mkdir()
    assert memory.read("b") is None
    assert memory.read("c") is None
    assert memory.write("c", ENTRY)


def test_the_least_recently_used_entry_gives_way(memory: RememberedRounds) -> None:
    for number, key in enumerate("abc"):
        memory.write(key, ENTRY)
        age(memory, key, number)
    assert memory.read("a") is not None  # used now
    assert memory.write("d", ENTRY)
    assert files(memory) == ["a.safetensors", "c.safetensors", "d.safetensors"]
    assert sum((memory.folder / name).stat().st_size for name in files(memory)) <= memory.limit


def test_what_the_limit_or_the_disk_has_no_room_for_is_not_written(
    memory: RememberedRounds, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not replace(memory, limit=ENTRY.size - 1).write("a", ENTRY)
    assert not replace(memory, limit=0).write("a", ENTRY)
    assert files(memory) == []
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=2 * ENTRY.size - 2))
    assert not memory.write("a", ENTRY)


def test_a_folder_that_cannot_be_written_is_one_clear_error(memory: RememberedRounds) -> None:
    memory.folder.write_text("a file")
    rule = re.escape(f"{memory.folder} is a file where a folder of rows belongs; move it away and run again")
    with pytest.raises(StorageError, match=rule):
        memory.write("a", ENTRY)


HOLDER = """
import sys, time
from pathlib import Path
from types import SimpleNamespace
from benchmark.records.remembered import RememberedRounds
with RememberedRounds.of(Path(sys.argv[1]), 1).claimed("a"):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_killed_process_frees_its_key_and_leaves_nothing(memory: RememberedRounds, tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        memory.clear()
        assert files(memory) == ["a.lock"]  # a living process holds it
        with memory.claimed("b"):
            pass
        process.send_signal(signal.SIGKILL)
    with memory.claimed("a"):
        assert files(memory) == ["a.lock"]
    assert files(memory) == []
    (memory.folder / "b.lock").touch()
    memory.clear()
    assert not memory.folder.exists()


def test_a_claim_waits_until_the_key_is_free(memory: RememberedRounds, tmp_path: Path) -> None:
    waiter = HOLDER.replace("time.sleep(600)", "pass")
    with memory.claimed("a"):
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", waiter, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=1)
    output, _ = process.communicate(timeout=60)
    assert output == "held\n"
    assert files(memory) == []


def test_clearing_keeps_what_open_jobs_need(memory: RememberedRounds) -> None:
    for key in "abc":
        memory.write(key, ENTRY)
    memory.remove(["a", "absent"])
    memory.clear(keep={"c"})
    assert files(memory) == ["c.safetensors"]
