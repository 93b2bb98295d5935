"""Text and tables on terminals of any width and encoding."""

from __future__ import annotations

import contextlib
import copy
import json
import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Any

from rich.console import Console, ConsoleDimensions, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

LEAST_WIDTH = 20
"""Columns of the narrowest layout. A narrower terminal breaks its lines itself."""

_BIDI_CONTROLS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that change the direction of the text that follows them."""


class Screen(Console):
    """A console that prints brackets in names as they are, and whose layouts are at least :data:`LEAST_WIDTH` wide.

    Args:
        stderr: Whether it prints on the error stream.
        file: Stream to print on; the output stream by default.
        width: Columns of the layout; those of the terminal by default.
    """

    def __init__(self, *, stderr: bool = False, file: IO[str] | None = None, width: int | None = None) -> None:
        super().__init__(stderr=stderr, file=file, width=width, markup=False, highlight=False, emoji=False)

    @property  # type: ignore[misc]  # the setter of the base class is not used
    def size(self) -> ConsoleDimensions:
        """The size of the terminal, or of the narrowest layout."""
        width, height = super().size
        return ConsoleDimensions(max(LEAST_WIDTH, width), height)

    def say(self, text: str, style: str | None = None) -> None:
        """Print a text whose lines the terminal breaks, not this program, so that commands in it can be copied."""
        with contextlib.suppress(OSError) if self.stderr else contextlib.nullcontext():
            self.print(Text(printable(text)), style=style, soft_wrap=True)

    def on_broken_pipe(self) -> None:
        """End the program if no one reads its output; go on without messages if no one reads those."""
        if not self.stderr:
            super().on_broken_pipe()
        self.quiet = True

    def say_json(self, content: Any) -> None:
        """Print JSON in ASCII, without colours and with no line broken, so that any program can read it.

        Raises:
            ValueError: A number is not finite, which JSON cannot hold.
        """
        sys.stdout.write(json.dumps(content, indent=2, allow_nan=False) + "\n")
        sys.stdout.flush()


def printable(text: str) -> str:
    """Return ``text`` without characters that act on a terminal; a blank replaces each of them. Line ends remain."""
    return "".join(" " if _acts(character) else character for character in text)


def _acts(character: str) -> bool:
    """Return whether a character acts on the terminal instead of being shown."""
    return character in _BIDI_CONTROLS or (unicodedata.category(character) == "Cc" and character != "\n")


@dataclass(frozen=True)
class Fitted:
    """A table that leaves out columns where the terminal is narrow; a last line names them.

    The first columns hold names. They remain, and fold where they alone are too wide.

    Attributes:
        table: The table.
        names: Number of columns that hold names.
        first_out: Headings of the columns to leave out first, in this order. The rightmost of the others follow.
    """

    table: Table
    names: int = 1
    first_out: Sequence[str] = ()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Render the columns that fit."""
        out: list[int] = []
        for index in self._order():
            if self._needed(console, options, out) <= options.max_width:
                break
            out.append(index)
        yield self._without(console, out, fold=self._needed(console, options, out) > options.max_width)
        if out:
            headings = ", ".join(str(self.table.columns[index].header) for index in sorted(out))
            width = self._needed(console, options, ())
            yield Text(f"Not shown: {headings}. COLUMNS={width} before the command shows all columns.")

    def _order(self) -> list[int]:
        """Return the indices of the columns that may be left out, in the order in which they are."""
        others = range(len(self.table.columns) - 1, self.names - 1, -1)
        headings = [str(column.header) for column in self.table.columns]
        return sorted(
            others,
            key=lambda index: (
                self.first_out.index(headings[index]) if headings[index] in self.first_out else len(self.first_out)
            ),
        )

    def _needed(self, console: Console, options: ConsoleOptions, out: Sequence[int]) -> int:
        """Return the width at which no name is folded, and nothing in the columns that remain is cut."""
        wide = options.update(max_width=sys.maxsize)
        return Measurement.get(console, wide, self._without(console, out)).minimum

    def _without(self, console: Console, out: Sequence[int], *, fold: bool = False) -> Table:
        """Return the table without some columns; names fold if asked to."""
        table = copy.copy(self.table)
        table.columns = [copy.copy(column) for index, column in enumerate(self.table.columns) if index not in out]
        for index, column in enumerate(table.columns):
            column._index = index
            column.no_wrap = column.no_wrap or index < self.names
            if fold and index < self.names:
                column.no_wrap, column.overflow = False, "fold"
            elif column.no_wrap:
                cells = (column.header, *column.cells)
                column.min_width = max(console.measure(cell).maximum for cell in cells)
        return table
