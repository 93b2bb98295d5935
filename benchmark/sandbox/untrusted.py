"""Checks of values from a method's process: each returns the value or raises."""

from __future__ import annotations

import math
import re
from typing import Any

from benchmark.sandbox.channel import ChannelError
from tasks.base import DataKind, Example

MAX_TEXT = 20_000
"""Longest text that travels in one piece, in characters."""
MAX_ITEMS = 100_000
"""Longest list that travels."""

_GAP = re.compile(r" *\n[ \n]*")
_KINDS = {kind.value for kind in DataKind}


def text(value: object, longest: int = MAX_TEXT) -> str:
    """Return a text of ordinary length that can be written as UTF-8.

    Raises:
        ChannelError: It is not such a value.
    """
    if not isinstance(value, str):
        raise ChannelError(f"it sent {type(value).__name__} where a text belongs")
    if len(value) > longest:
        raise ChannelError(f"it sent a text of {len(value):,} characters; at most {longest:,} are read")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ChannelError("it sent a text that is not Unicode") from None
    return value


def texts(value: object) -> list[str]:
    """Return a list of texts.

    Raises:
        ChannelError: It is not such a value.
    """
    return [text(item) for item in items(value)]


def items(value: object, most: int = MAX_ITEMS) -> list[Any]:
    """Return a list of ordinary length.

    Raises:
        ChannelError: It is not such a value.
    """
    if not isinstance(value, list):
        raise ChannelError(f"it sent {type(value).__name__} where a list belongs")
    if len(value) > most:
        raise ChannelError(f"it sent a list of {len(value):,} items; at most {most:,} are read")
    return value


def record(value: object, *names: str) -> dict[str, Any]:
    """Return a mapping with exactly the keys ``names``.

    Raises:
        ChannelError: It is not such a value.
    """
    if not isinstance(value, dict) or value.keys() != set(names):
        raise ChannelError(f"it sent something else than {', '.join(names) or 'nothing'}")
    return value


def count(value: object, most: int = MAX_ITEMS) -> int:
    """Return a whole number from 0 to ``most``.

    Raises:
        ChannelError: It is not such a value.
    """
    if type(value) is not int:
        raise ChannelError(f"it sent {type(value).__name__} where a whole number belongs")
    if not 0 <= value <= most:
        shown = f"{value:,}" if abs(value) < 1 << 64 else "of many digits"
        raise ChannelError(f"it sent the number {shown}; it must be from 0 to {most:,}")
    return value


def number(value: object) -> float:
    """Return a finite number.

    Raises:
        ChannelError: It is not such a value.
    """
    if type(value) not in (int, float) or not isinstance(value, int | float):
        raise ChannelError(f"it sent {type(value).__name__} where a number belongs")
    try:
        result = float(value)
    except OverflowError:
        result = math.inf
    if not math.isfinite(result):
        raise ChannelError("it sent a number that is not finite")
    return result


def examples(value: object) -> list[Example]:
    """Return training rows.

    Raises:
        ChannelError: They are not training rows.
    """
    rows = []
    for row in items(value):
        if not isinstance(row, list) or len(row) != 4 or not isinstance(row[2], str) or row[2] not in _KINDS:
            raise ChannelError("it sent a training row that is none")
        rows.append(Example(text(row[0]), text(row[1]), DataKind(row[2]), text(row[3], 200)))
    return rows


def random_state(value: object) -> dict[str, int]:
    """Return the state of a NumPy generator, see :func:`benchmark.sandbox.remote.rng_state`.

    Raises:
        ChannelError: It is not such a value.
    """
    state = record(value, "state", "inc", "has_uint32", "uinteger")
    bounds = {"state": 1 << 128, "inc": 1 << 128, "has_uint32": 2, "uinteger": 1 << 32}
    return {name: count(state[name], bound - 1) for name, bound in bounds.items()}


def printable(value: str, longest: int = 1500) -> str:
    """Return a text on one line, without control characters, for people to read."""
    shown = "".join(character if character.isprintable() else "\n" for character in value)
    short = _GAP.sub(" ", shown).strip()
    return short if len(short) <= longest else short[: longest - 1] + "…"
