"""Progress lines: units are counted, and the remaining time follows from their share of the work."""

from __future__ import annotations

import io
import itertools

import pytest
from rich.console import Console

from benchmark import progress
from benchmark.progress import Reporter


def lines_of(monkeypatch: pytest.MonkeyPatch, shares: list[float | None], *, terminal: bool = False) -> list[str]:
    """Return the lines of a step whose units take 60 seconds each."""
    seconds = itertools.count(0, 60)
    if not terminal:
        monkeypatch.setattr(progress.time, "monotonic", lambda: next(seconds))
    file = io.StringIO()
    with Reporter(Console(file=file, force_terminal=terminal, width=100)).step("work", len(shares)) as step:
        for share in shares:
            step.advance(share=share)
    return file.getvalue().splitlines()


def test_units_are_equal_unless_their_share_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    assert lines_of(monkeypatch, [None] * 3) == [
        "work: 3 to do",
        "work: 1/3 after 1 min 00 s, about 2 min 00 s left",
        "work: 2/3 after 2 min 00 s, about 1 min 00 s left",
        "work: 3/3 after 3 min 00 s",
    ]
    # The first unit is four fifths of the work.
    assert lines_of(monkeypatch, [0.8, 0.1, 0.1])[1:3] == [
        "work: 1/3 after 1 min 00 s, about 15 s left",
        "work: 2/3 after 2 min 00 s, about 13 s left",
    ]


def test_a_small_part_of_the_work_gives_no_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    assert lines_of(monkeypatch, [0.01, 0.49, 0.5])[1:3] == [
        "work: 1/3 after 1 min 00 s",
        "work: 2/3 after 2 min 00 s, about 2 min 00 s left",
    ]


def test_a_terminal_shows_the_units(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "3/3" in lines_of(monkeypatch, [0.8, 0.1, 0.1], terminal=True)[-2]
