"""Thread that starts all sandboxes of this process, drains their output, and measures their use.

A sandbox is set to die with the *thread* that started it, because the kernel counts parents by thread. So a thread that
lives as long as this process starts them all.
"""

from __future__ import annotations

import os
import queue
import selectors
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from benchmark.sandbox.layout import SCRATCH_FOLDERS, library_path

_INTERVAL = 0.05
_CHUNK = 64 * 1024
_TICK = os.sysconf("SC_CLK_TCK")


class Watched(Protocol):
    """Process that the thread watches."""

    output_pipe: int

    def take_output(self, chunk: bytes) -> None:
        """Keep a piece of the printed bytes; an empty piece marks the end."""

    def measure(self) -> bool:
        """Compare the use with the limits; return whether the process was running."""


class Watch:
    """The thread. Use :func:`the_watch`."""

    def __init__(self) -> None:
        self._orders: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._selector = selectors.DefaultSelector()
        self._bell, self._ringer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._selector.register(self._bell, selectors.EVENT_READ)
        self._alive: list[Watched] = []
        threading.Thread(target=self._work, name="sandbox watch", daemon=True).start()

    def start(
        self, command: tuple[str, ...], descriptors: tuple[int, ...], output: int, user: int | None = None
    ) -> subprocess.Popen[bytes]:
        """Start ``command`` from the thread.

        Its standard input is an empty pipe of its own, because ``/dev/null`` would be the host's.

        Args:
            command: Program and arguments.
            descriptors: Descriptors that it inherits.
            output: Descriptor for its standard output and standard error.
            user: Number of the user and group that it runs as; by default those of this process.
        """
        answer: Future[subprocess.Popen[bytes]] = Future()

        def order() -> None:
            nothing, end = os.pipe2(os.O_CLOEXEC)
            os.close(end)
            try:
                answer.set_result(
                    subprocess.Popen(  # noqa: S603 - the command is made here
                        command,
                        stdin=nothing,
                        stdout=output,
                        stderr=output,
                        pass_fds=descriptors,
                        env=library_path(),
                        cwd="/",
                        user=user,
                        group=user,
                        extra_groups=None if user is None else (),
                    )
                )
            except OSError as error:
                answer.set_exception(error)
            finally:
                os.close(nothing)

        self._give(order)
        return answer.result()

    def add(self, watched: Watched) -> None:
        """Watch ``watched`` until it has ended and its output is read."""

        def order() -> None:
            self._selector.register(watched.output_pipe, selectors.EVENT_READ, watched)
            self._alive.append(watched)

        self._give(order)

    def _give(self, order: Callable[[], None]) -> None:
        self._orders.put(order)
        with suppress(BlockingIOError):  # it rings already
            os.write(self._ringer, b"!")

    def _work(self) -> None:
        due = 0.0
        while True:
            pause = max(0.0, due - time.monotonic()) if self._alive else None
            for key, _ in self._selector.select(pause):
                if key.data is None:
                    os.read(self._bell, 4096)
                else:
                    self._drain(key.data)
            while not self._orders.empty():
                self._orders.get()()
            if time.monotonic() >= due:
                self._alive = [watched for watched in self._alive if watched.measure()]
                due = time.monotonic() + _INTERVAL

    def _drain(self, watched: Watched) -> None:
        try:
            chunk = os.read(watched.output_pipe, _CHUNK)
        except BlockingIOError:
            return
        if not chunk:
            self._selector.unregister(watched.output_pipe)
        watched.take_output(chunk)


_lock = threading.Lock()
_watch: Watch | None = None


def the_watch() -> Watch:
    """Return this process's watch."""
    global _watch
    with _lock:
        if _watch is None:
            _watch = Watch()
        return _watch


def _forget() -> None:
    """Reset the watch in a forked process, which has none of its parent's threads."""
    global _lock, _watch
    _lock, _watch = threading.Lock(), None


os.register_at_fork(after_in_child=_forget)


@dataclass(frozen=True)
class Use:
    """Use of the processes of one sandbox at a moment.

    Attributes:
        processes: Number of processes, without the sandbox's first one, which only waits.
        threads: Their threads.
        memory_bytes: Their private memory, plus the largest amount of shared memory that one of them has mapped: a sum
            would count memory that several of them share more than once.
        cpu_seconds: Processor time of the running processes.
        files: Files and folders in the sandbox's scratch folders.
    """

    processes: int
    threads: int
    memory_bytes: int
    cpu_seconds: float
    files: int


def use_of(first: int) -> Use:
    """Return the use of the processes below ``first``."""
    processes = threads = private = shared = files = 0
    seconds = 0.0
    for pid in _below(first):
        try:
            status = _fields(f"/proc/{pid}/status")
            if status["State"].startswith(("Z", "X")):
                continue
            with open(f"/proc/{pid}/stat", "rb") as stream:
                numbers = stream.read().rpartition(b")")[2].split()
            threads += int(status["Threads"])
            private += _bytes(status, "RssAnon")
            shared = max(shared, _bytes(status, "RssShmem"))
            seconds += (int(numbers[11]) + int(numbers[12])) / _TICK
            files = files or _scratch_files(pid)
        except (FileNotFoundError, ProcessLookupError, KeyError, IndexError):
            continue  # it has just ended
        processes += 1
    return Use(processes, threads, private + shared, seconds, files)


def _below(first: int) -> list[int]:
    """Return the descendants of ``first``: in a sandbox, orphans become children of the first process again."""
    descendants: list[int] = []
    waiting = [first]
    while waiting:
        pid = waiting.pop()
        children = _children(pid)
        descendants += children
        waiting += children
    return descendants


def _children(pid: int) -> list[int]:
    children: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as stream:
                children += map(int, stream.read().split())
    except (FileNotFoundError, ProcessLookupError):
        pass  # it has just ended
    return children


def _scratch_files(pid: int) -> int:
    """Return the number of files in the scratch folders that the process sees."""
    count = 0
    with suppress(OSError):  # it has just ended, or its view is not built yet
        for folder in SCRATCH_FOLDERS:
            state = os.statvfs(f"/proc/{pid}/root{folder}")
            count += state.f_files - state.f_ffree - 1
    return count


def _fields(path: str) -> dict[str, str]:
    with open(path, encoding="utf-8", errors="replace") as stream:
        return {name: value.strip() for name, _, value in (line.partition(":") for line in stream)}


def _bytes(status: dict[str, str], field: str) -> int:
    return int(status.get(field, "0 kB").split()[0]) * 1024
