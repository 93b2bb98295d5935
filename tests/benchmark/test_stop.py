"""Stops: a signal that a finaliser swallows stops the work at the next safe point, and a second one at once."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from benchmark.progress import Reporter
from benchmark.stop import SIGNALS, check_stop, stop_status, stoppable, stops_held_back

SWALLOWS = """
import os, signal, sys, time
from benchmark.stop import check_stop, stop_status, stoppable, leave_stops_to_parent

signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # a parent that was started with nohup ignores it

class Swallows:
    def __init__(self, number=signal.SIGINT):
        self.number = number
    def __del__(self):
        os.kill(os.getpid(), self.number)
        for _ in range(100):
            time.sleep(0.01)
"""


def ended(program: str, tmp_path: Path) -> tuple[int, str, str]:
    """Run a program in a process of its own; return its status, output and errors."""
    command = [sys.executable, "-P", "-c", SWALLOWS + program]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_that_a_finaliser_swallows_stops_at_the_next_safe_point(number: int, tmp_path: Path) -> None:
    program = f"""
with stoppable():
    Swallows({int(number)})
    print("went on")
    try:
        check_stop()
    except KeyboardInterrupt:
        sys.exit(stop_status())
"""
    status, output, errors = ended(program, tmp_path)
    assert (status, output) == (128 + number, "went on\n")
    assert "Exception ignored in: <function Swallows.__del__" in errors


def test_a_second_signal_ends_the_process_at_once(tmp_path: Path) -> None:
    program = """
with stoppable():
    Swallows()
    try:
        print("still here", flush=True)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)
    finally:
        print("a finaliser ran", flush=True)
"""
    assert ended(program, tmp_path)[:2] == (130, "still here\n")


def test_an_ignored_signal_stays_ignored(tmp_path: Path) -> None:
    program = """
signal.signal(signal.SIGINT, signal.SIG_IGN)
with stoppable():
    os.kill(os.getpid(), signal.SIGINT)
    check_stop()
    print("done")
"""
    assert ended(program, tmp_path) == (0, "done\n", "")


def test_a_worker_leaves_ctrl_c_to_its_parent_and_ends_by_a_termination(tmp_path: Path) -> None:
    program = """
with stoppable():
    leave_stops_to_parent()
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGHUP)
    print("went on", flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)
"""
    assert ended(program, tmp_path) == (-signal.SIGTERM, "went on\n", "")


def test_the_handlers_and_the_record_end_with_their_context() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(KeyboardInterrupt), stoppable():
        signal.raise_signal(signal.SIGTERM)
    assert [signal.getsignal(number) for number in SIGNALS] == before
    assert stop_status() == 0
    check_stop()


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_is_a_safe_point(terminal: bool) -> None:
    reporter = Reporter(Console(file=io.StringIO(), force_terminal=terminal))
    with stoppable():
        with reporter.step("work", 2) as step:
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGTERM)
            with pytest.raises(KeyboardInterrupt):
                step.advance()
        with pytest.raises(KeyboardInterrupt), reporter.step("more work", 0):
            raise AssertionError("more work began")


def test_a_process_that_is_started_while_stops_are_held_back_never_gets_ctrl_c() -> None:
    program = "import os, signal; os.kill(os.getpid(), signal.SIGINT); print('went on')"
    with stops_held_back():
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "went on\n")
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, set())
