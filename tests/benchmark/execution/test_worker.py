"""Worker processes: tasks, results, errors, state from task to task, and the end of a process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from functools import partial

import pytest

from benchmark.errors import FedSafetyError, SubmissionError
from benchmark.execution.bench import Bench
from benchmark.execution.worker import Workers
from benchmark.sandbox.adopt import Strangers


def number(value: int, bench: Bench) -> int:
    return value


def process_of(bench: Bench) -> int:
    return os.getpid()


def calls(bench: Bench) -> int:
    """Return how often this process was called."""
    count = getattr(bench, "calls", 0) + 1
    bench.calls = count  # type: ignore[attr-defined]
    return count


def fails(bench: Bench) -> None:
    raise SubmissionError("no such luck")


def dies(bench: Bench) -> None:
    os._exit(3)


def sleeps(bench: Bench) -> None:
    time.sleep(600)


def test_processes_run_all_tasks_and_keep_their_bench() -> None:
    with Workers(2, Strangers()) as workers:
        assert sorted(workers.run({str(n): partial(number, n) for n in range(7)})) == list(range(7))
        assert list(workers.run({})) == []
        processes = workers.each("its process", process_of)
        assert len({*processes, os.getpid()}) == 3
        assert workers.each("a call", calls) == [1, 1]
        assert workers.each("a call", calls) == [2, 2]
        with pytest.raises(SubmissionError, match=r"^no such luck$"):
            list(workers.run({"a failure": fails}))
        assert list(workers.run({"one more": partial(number, 5)})) == [5]


def variable(name: str, bench: Bench) -> str | None:
    return os.environ.get(name)


def test_processes_have_the_environment_of_the_moment_of_their_start(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("one", "two"):
        monkeypatch.setenv("FEDSAFETY_TEST_WORKER", value)
        with Workers(1, Strangers()) as workers:
            assert workers.each("a variable", partial(variable, "FEDSAFETY_TEST_WORKER")) == [value]


def test_the_death_of_a_process_names_its_task_and_stops_the_others() -> None:
    began = time.monotonic()
    with (
        pytest.raises(FedSafetyError, match=r"out of memory, or killed\) in scenario 'made', seed 3; finished work is"),
        Workers(2, Strangers()) as workers,
    ):
        list(workers.run({"a long task": sleeps, "scenario 'made', seed 3": dies}))
    assert time.monotonic() - began < 300


BLOCKED_SIGNALS = """
from multiprocessing import forkserver
from pathlib import Path
from benchmark.execution.worker import _context
_context()
status = Path(f"/proc/{forkserver._forkserver._forkserver_pid}/status").read_text()
(mask,) = (line.split()[1] for line in status.splitlines() if line.startswith("SigBlk:"))
print(int(mask, 16) >> (2 - 1) & 1)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux forks workers from a server")
def test_the_server_that_forks_workers_never_gets_ctrl_c() -> None:
    command = [sys.executable, "-P", "-c", BLOCKED_SIGNALS]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"
