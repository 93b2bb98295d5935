"""Worker processes: start, threads, signals, memory, and the tasks that they run.

A worker process has one thread: results then do not depend on how many cores share the work, and two such processes use
two cores better than one process with two threads.
"""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext
from types import TracebackType
from typing import Any, Self, TypeVar

import torch

from benchmark.errors import FedSafetyError
from benchmark.execution.bench import Bench
from benchmark.execution.queue import TaskQueue
from benchmark.records.environment import TRAINING_THREADS
from benchmark.sandbox.adopt import Strangers
from benchmark.sandbox.description import Descriptions, known_descriptions, learn
from benchmark.stop import check_stop, leave_stops_to_parent, stops_held_back

T = TypeVar("T")
Task = Callable[[Bench], T]
"""Work for a worker process; it can be pickled, and so can its result. The bench is the state of the process."""

_POLL_SECONDS = 1.0
"""Longest wait for a result at a time; it lets Ctrl-C through on every platform."""


class Workers:
    """Worker processes that run tasks; each keeps a :class:`Bench` from task to task.

    Use it as a context manager. An exception in its body, Ctrl-C included, stops the processes at once; finished
    artefacts are on disk, and half-done work is worth nothing.

    Args:
        count: Number of processes.
        strangers: Methods for the processes to adopt.
    """

    def __init__(self, count: int, strangers: Strangers) -> None:
        self._workers: list[_Worker] = []
        try:
            for _ in range(count):
                self._workers.append(_Worker(strangers))
        except BaseException:
            self._stop(at_once=True)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop(at_once=kind is not None)

    def run(self, tasks: Mapping[str, Task[T]], groups: Mapping[str, str] | None = None) -> Iterator[T]:
        """Run tasks, as many at once as there are processes; yield their results as the tasks finish.

        Args:
            tasks: The tasks by name, such as ``scenario 'blended', seed 11``, for error messages.
            groups: Group of each task that shares work; :class:`benchmark.execution.queue.TaskQueue` has the order.

        Raises:
            FedSafetyError: A process died.
            Exception: A task raised it.
        """
        queue = TaskQueue(tasks, groups or {})
        idle = dict.fromkeys(self._workers, "")
        busy: dict[Connection, tuple[_Worker, str]] = {}

        def start() -> None:
            for worker, last in list(idle.items()):
                if (name := queue.take(last)) is not None:
                    del idle[worker]
                    busy[worker.start(name, tasks[name])] = worker, name

        start()
        while busy:
            check_stop()
            for connection in wait(list(busy), timeout=_POLL_SECONDS):
                assert isinstance(connection, Connection)
                worker, name = busy.pop(connection)
                result = worker.result()
                queue.end(name)
                idle[worker] = name
                start()
                yield result

    def each(self, name: str, task: Task[T]) -> list[T]:
        """Run a task in every process at once and return the results.

        Raises:
            FedSafetyError: A process died.
            Exception: The task raised it.
        """
        for worker in self._workers:
            worker.start(name, task)
        return [worker.result() for worker in self._workers]

    def _stop(self, *, at_once: bool) -> None:
        try:
            for worker in self._workers:
                worker.stop(at_once=at_once)
            for worker in self._workers:
                worker.join()
        except BaseException:
            # A process that waits for a task would keep this one from ending.
            for worker in self._workers:
                worker.stop(at_once=True)
            raise


class _Worker:
    """A worker process as its parent sees it."""

    def __init__(self, strangers: Strangers) -> None:
        context = _context()
        self._connection, theirs = context.Pipe()
        arguments = (theirs, dict(os.environ), strangers, known_descriptions())
        self._process = context.Process(target=_serve, args=arguments)
        self._process.start()
        theirs.close()  # so that the death of the process closes the connection
        self._task = "its start"

    def start(self, name: str, task: Task[Any]) -> Connection:
        """Start a task; return the connection that becomes ready when the task ends."""
        self._task = name
        with _death_reported(self._task):
            self._connection.send(task)
        return self._connection

    def result(self) -> Any:
        """Return the result of the task, once the task ends."""
        with _death_reported(self._task):
            succeeded, result = self._connection.recv()
        if not succeeded:
            raise result
        return result

    def stop(self, *, at_once: bool) -> None:
        """Let the process end, after its task or at once."""
        if at_once:
            self._process.terminate()
            return
        with contextlib.suppress(OSError):
            self._connection.send(None)

    def join(self) -> None:
        """Wait for the end of the process."""
        self._process.join()
        self._connection.close()


def _context() -> ForkServerContext | SpawnContext:
    """Return the way to start processes: on Linux from one process that has imported the job's modules, else afresh.

    This process itself is never forked, because the threads of torch and vLLM do not survive a fork.
    """
    if not sys.platform.startswith("linux"):
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmark.execution.job"])
    # The server imports for seconds, in which Ctrl-C would print its traceback. The resource tracker starts before it,
    # because the start of the tracker lets Ctrl-C through again.
    resource_tracker.ensure_running()
    with stops_held_back():
        forkserver.ensure_running()
    return context


@contextlib.contextmanager
def _death_reported(task: str) -> Iterator[None]:
    """Turn the end of a connection into an error that names the task."""
    try:
        yield
    except (EOFError, OSError) as error:
        check_stop()  # a signal to the whole process group has ended the worker
        raise FedSafetyError(
            f"a training process ended without an error message (out of memory, or killed) in {task}; finished work is "
            f"kept: run the same command again, with fewer --workers if memory is short"
        ) from error


def _serve(
    connection: Connection, environment: Mapping[str, str], strangers: Strangers, descriptions: Descriptions
) -> None:
    """Run the tasks from the connection until ``None`` arrives."""
    # The process that forks this one may have been started under another environment.
    os.environ.clear()
    os.environ.update(environment)
    _prepare(strangers, descriptions)
    bench = Bench()
    while (task := connection.recv()) is not None:
        try:
            reply = True, task(bench)
        except BaseException as error:  # the parent process raises it
            reply = False, error
        connection.send(reply)


def _prepare(strangers: Strangers, descriptions: Descriptions) -> None:
    """Leave Ctrl-C to the parent process, set the thread count, keep freed memory and adopt the strangers."""
    leave_stops_to_parent()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(TRAINING_THREADS)
    keep_freed_memory()
    # Reuse the descriptions that the parent process read. Asking a method twice may give two answers.
    learn(descriptions)
    strangers.adopt()


def _end_with_parent() -> None:
    """Wait for the parent process to end, and end this process too."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def keep_freed_memory() -> None:
    """Make glibc keep freed blocks: training frees and takes the same megabytes at every step.

    Without this setting, page faults cost about a tenth of the time. Without glibc the function does nothing.
    """
    name = ctypes.util.find_library("c")
    libc = ctypes.CDLL(name) if name else None
    if libc is not None and hasattr(libc, "mallopt"):
        trim_threshold, top_pad, mmap_threshold = -1, -2, -3
        libc.mallopt(trim_threshold, 1 << 30)
        libc.mallopt(top_pad, 64 << 20)
        libc.mallopt(mmap_threshold, 1 << 30)
