"""Stops of long work by Ctrl-C, and by the signals that end a process.

Python drops an exception that leaves a finaliser, so a signal that arrives there would be lost. Its handler therefore
also records it, and the safe points of long work look the record up: progress, batches of answers, finished jobs.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""Signals that stop the work. One that is ignored, as under ``nohup``, stays ignored."""

_received: list[int] = []


@contextmanager
def stoppable() -> Iterator[None]:
    """Let a first signal stop the work at the next safe point, and a second one end the process at once."""
    heeded = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    former = {number: signal.signal(number, _receive) for number in heeded} if _in_main_thread() else {}
    try:
        yield
    finally:
        _received.clear()
        for number, handler in former.items():
            signal.signal(number, handler)


def check_stop() -> None:
    """Do nothing, or stop the work if a signal was received.

    Raises:
        KeyboardInterrupt: A signal was received in the context of :func:`stoppable`.
    """
    if _received:
        raise KeyboardInterrupt


def stop_status() -> int:
    """Return the exit status of a process that a signal stops, such as 130 for Ctrl-C; 0 if no signal was received."""
    return 128 + _received[0] if _received else 0


def leave_stops_to_parent() -> None:
    """Ignore the signals that a terminal sends to all of its processes; the parent ends this process by SIGTERM."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.SIG_IGN)


@contextmanager
def stops_held_back() -> Iterator[None]:
    """Block the signals in this context; a process that is started in it never receives Ctrl-C."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if _in_main_thread() else set()
    try:
        yield
    finally:
        if _in_main_thread():
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _receive(number: int, frame: FrameType | None) -> None:
    """Record a signal and raise; end the process if there was a signal before."""
    del frame
    if _received:
        _end_at_once(number)
    _received.append(number)
    raise KeyboardInterrupt


def _end_at_once(number: int) -> None:
    """End the process without any finaliser; show the cursor, which a live display hides."""
    if sys.stdout is not None and sys.stdout.isatty():
        os.write(sys.stdout.fileno(), b"\x1b[?25h\n")
    os._exit(128 + number)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
