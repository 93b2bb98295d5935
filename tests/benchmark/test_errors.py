"""Texts that are taken from errors."""

from __future__ import annotations

from benchmark.errors import first_line


def test_the_first_line_of_an_error_or_its_name() -> None:
    assert first_line(RuntimeError("full\nlong story")) == "full"
    assert first_line(MemoryError()) == "MemoryError"
