"""Running sandbox, seen from the process that started it."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import threading
from contextlib import suppress
from types import TracebackType

from benchmark.sandbox.limits import Limits, in_words
from benchmark.sandbox.watch import the_watch, use_of

_FILES = 10_000  # even an empty file costs memory that no limit counts
_STOPPED = "was stopped"
_SIGNAL = 128  # exit codes above it name the signal that ended the program


class IsolatedProcess:
    """Process that sees only the files passed in, with all processes that it starts.

    Made by :func:`benchmark.sandbox.isolation.start`. A context manager that kills the process at the end.

    Attributes:
        pid: The sandbox's first process, as the host numbers it. It ends last, and everything inside ends with it.
        limits: Its limits.
    """

    def __init__(self, outer: subprocess.Popen[bytes], first: int, status: int, output: int, limits: Limits) -> None:
        self.pid = first
        self.limits = limits
        self.output_pipe = output
        self._outer = outer
        self._status = status
        self._handle = _open_handle(first)
        self._lock = threading.RLock()
        self._reason = ""
        self._code: int | None = None
        self._tail = bytearray()
        self._dropped = 0
        self._drained = threading.Event()
        self._peak = 0
        self._cpu = 0.0

    def __enter__(self) -> IsolatedProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def alive(self) -> bool:
        """Return whether the process is running."""
        with self._lock:
            return not self._ended()

    def kill(self) -> None:
        """End all processes inside and wait for their end."""
        self._end(_STOPPED)
        self.wait()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for the end, at most ``seconds``; return whether the process has ended."""
        poll = select.poll()
        with self._lock:
            if self._ended():
                return True
            handle = _open_handle(self._outer.pid)  # not reaped yet, so the number is still its own
        if handle is not None:
            poll.register(handle, select.POLLIN)
            poll.poll(None if seconds is None else max(0, round(seconds * 1000)))
            os.close(handle)
        return not self.alive()

    def died_of(self) -> str:
        """Return why the process ended, as words that follow "it"; empty while it runs."""
        if self.alive():
            return ""
        return self._reason or self._reason_of_exit()

    def output(self) -> str:
        """Return the end of the printed text, without control characters."""
        with self._lock:
            ended = self._ended()
        if ended:
            self._drained.wait(1.0)
        with self._lock:
            text = self._tail.decode("utf-8", errors="replace")
            dropped = self._dropped
        text = re.sub(r"[^\n\t\x20-\x7e\xa0-\U0010ffff]", "", text)
        return f"[{dropped} bytes left out]\n{text}" if dropped else text

    @property
    def peak_memory_bytes(self) -> int:
        """Peak of the measured memory, in bytes."""
        self.measure()
        return self._peak

    @property
    def cpu_seconds(self) -> float:
        """Processor time that it has used, in seconds."""
        self.measure()
        return self._cpu

    def take_output(self, chunk: bytes) -> None:
        """Keep a piece of the printed bytes; an empty piece marks the end."""
        with self._lock:
            if not chunk:
                os.close(self.output_pipe)
                self._drained.set()
                return
            self._tail += chunk
            excess = len(self._tail) - self.limits.output_bytes
            if excess > 0:
                del self._tail[:excess]
                self._dropped += excess

    def measure(self) -> bool:
        """Compare the use with the limits and end the process if it breaks one; return whether it was running."""
        with self._lock:
            if self._ended():
                return False
            try:
                use = use_of(self.pid)
            except (OSError, ValueError) as error:
                self._end(f"could not be watched: {error}")
                return True
            self._peak = max(self._peak, use.memory_bytes)
            self._cpu = max(self._cpu, use.cpu_seconds)
            limits = self.limits
            if use.memory_bytes > limits.memory_bytes:
                self._end(f"used more than {in_words(limits.memory_bytes)} of memory")
            elif use.processes > limits.processes:
                self._end(f"started {use.processes} processes; {_allowed(limits.processes)}")
            elif use.threads > limits.threads:
                self._end(f"started {use.threads} threads; {_allowed(limits.threads)}")
            elif use.cpu_seconds > limits.cpu_seconds:
                self._end(self._too_much_time())
            elif use.files > _FILES:
                self._end(f"made more than {_FILES} files")
            return True

    def _end(self, reason: str) -> None:
        with self._lock:
            if self._ended():
                return
            self._reason = self._reason or reason
            if self._handle is not None:
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(self._handle, signal.SIGKILL)
            else:
                self._outer.kill()

    def _ended(self) -> bool:
        """Return whether the process has ended; read its exit code the first time."""
        if self._outer.returncode is not None:
            return True
        pid, status, usage = os.wait4(self._outer.pid, os.WNOHANG)
        if pid == 0:
            return False
        if self._handle is not None:  # the first process ends with the outer one or before it
            poll = select.poll()
            poll.register(self._handle, select.POLLIN)
            poll.poll()
            os.close(self._handle)
        self._outer.returncode = os.waitstatus_to_exitcode(status)
        self._cpu = max(self._cpu, usage.ru_utime + usage.ru_stime)
        with os.fdopen(self._status, "rb") as stream:
            codes = re.findall(rb'"exit-code"\s*:\s*(\d+)', stream.read())
        self._code = int(codes[-1]) if codes else None
        return True

    def _reason_of_exit(self) -> str:
        if self._code is None and self._outer.returncode < 0:
            return _killed_by(-self._outer.returncode)
        if self._code is None:
            lines = self.output().strip().splitlines()
            return f"could not be started: {lines[-1] if lines else f'status {self._outer.returncode}'}"
        if self._cpu >= self.limits.cpu_seconds:
            return self._too_much_time()
        if self._code in {_SIGNAL + number for number in signal.valid_signals()}:
            return _killed_by(self._code - _SIGNAL)
        return f"exited with status {self._code}"

    def _too_much_time(self) -> str:
        return f"used more than {self.limits.cpu_seconds:g} s of processor time"


def first_process(status: int, seconds: float = 30.0) -> int | None:
    """Return the number of the sandbox's first process, from the status descriptor; ``None`` if it has none."""
    line = b""
    while not line.endswith(b"}") and select.select([status], [], [], seconds)[0]:
        piece = os.read(status, 1)
        if not piece:
            break
        line += piece
    return int(json.loads(line)["child-pid"]) if line.strip().endswith(b"}") else None


def watch_over(process: IsolatedProcess) -> None:
    """Add ``process`` to this process's watch."""
    the_watch().add(process)


def _open_handle(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


def _killed_by(number: int) -> str:
    return f"was killed by signal {number} ({signal.strsignal(number)})"


def _allowed(count: int) -> str:
    return f"{count} is allowed" if count == 1 else f"{count} are allowed"
