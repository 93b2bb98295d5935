"""Progress of long work: a live display on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from benchmark.screen import printable
from benchmark.stop import check_stop

_SECONDS_BETWEEN_LINES = 10.0

_LEAST_SHARE = 0.05
"""Share of the work from which on the remaining time is estimated. A small unit that ends first, while large ones are
under way, would give hours in place of minutes."""


class Step(Protocol):
    """One countable step of the work. Its begin and its units are safe points for a stop."""

    def advance(self, count: int = 1, share: float | None = None) -> None:
        """Report ``count`` further finished units.

        Args:
            count: Number of units.
            share: Their part of the whole work, from which the remaining time follows; by default the same for every
                unit.

        Raises:
            KeyboardInterrupt: The work is to stop.
        """


class Reporter:
    """Shows steps on a console.

    Args:
        console: Where to; its ``is_terminal`` decides the form.
    """

    def __init__(self, console: Console) -> None:
        self.console = console

    def say(self, text: str) -> None:
        """Print one line above any live display."""
        self.console.print(Text(printable(text)), soft_wrap=True)

    @contextmanager
    def step(self, title: str, total: int) -> Iterator[Step]:
        """Show a step of ``total`` units while the context is open; nothing to do is not shown."""
        check_stop()
        if not total:
            yield _Silent()
            return
        if not self.console.is_terminal:
            yield _Lines(self, title, total)
            return
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[done]}/{task.fields[units]}", style="progress.download"),
            TimeElapsedColumn(),
            TextColumn("remaining"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self.console) as progress:
            yield _Live(progress, title, total)


class _Silent:
    def advance(self, count: int = 1, share: float | None = None) -> None:
        del count, share


class _Live:
    def __init__(self, progress: Progress, title: str, total: int) -> None:
        self._progress, self._total, self._done, self._share = progress, total, 0, 0.0
        # The bar and the remaining time follow the work, and the numbers follow the units.
        self._task = progress.add_task(title, total=1.0, done=0, units=total)

    def advance(self, count: int = 1, share: float | None = None) -> None:
        self._done += count
        self._share += count / self._total if share is None else share
        completed = 1.0 if self._done >= self._total else min(self._share, 1.0)
        self._progress.update(self._task, completed=completed, done=self._done)
        check_stop()


class _Lines:
    def __init__(self, reporter: Reporter, title: str, total: int) -> None:
        self._reporter, self._title, self._total = reporter, title, total
        self._done, self._share = 0, 0.0
        self._began = self._last = time.monotonic()
        reporter.say(f"{title}: {total} to do")

    def advance(self, count: int = 1, share: float | None = None) -> None:
        check_stop()
        self._done += count
        self._share += count / self._total if share is None else share
        now = time.monotonic()
        if self._done < self._total and now - self._last < _SECONDS_BETWEEN_LINES:
            return
        self._last = now
        spent = now - self._began
        text = f"{self._title}: {self._done}/{self._total} after {duration(spent)}"
        if self._done < self._total and self._share >= _LEAST_SHARE:
            text += f", about {duration(max(0.0, spent / self._share * (1 - self._share)))} left"
        self._reporter.say(text)


def duration(seconds: float) -> str:
    """Return seconds in words, ``1 min 05 s``; hours from one on, without seconds."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
