"""Text from the values that files hold, and refusals of values that have no one text."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any, Final

_EXACT: Final = 2**53
"""Whole numbers from here on may have lost digits as floats."""
_MOST_DIGITS: Final = 100
"""Most digits before or after the point of a number that is read as text."""
_FRACTION_OF_ZERO: Final = re.compile(r"\A([-+]?\d+)\.0+\Z")
_TEXT_PARTS: Final = ("text", "input_text", "output_text")
"""Types of the parts of a message that hold text, in the forms of chat interfaces."""
_KINDS: Final[tuple[tuple[Any, str], ...]] = (
    (type(None), "null"),
    (bool, "a boolean"),
    ((int, float, Decimal), "a number"),
    (str, "text"),
    (bytes, "bytes"),
    ((list, tuple), "a list"),
    (Mapping, "an object"),
    ((date, time, timedelta), "a date or time"),
)
_OUTER: Final = re.compile(r"\A[\s\ufeff\u200b\u2060]+|[\s\ufeff\u200b\u2060]+\Z")
"""Blanks around a text, those without a width and the byte order mark, too."""
_OTHER_PARTS: Final = (
    *("image", "image_url", "input_image", "audio", "audio_url", "input_audio", "video", "video_url", "file"),
    *("input_file", "document", "thinking", "redacted_thinking", "reasoning", "tool_use", "tool_result", "tool_call"),
)
"""Types of the parts of a message that hold no text, or text that is not part of the answer."""
_OTHER_KEYS: Final = re.compile(
    r"(?:input_|output_)?(?:image|audio|video|file|attachment|reasoning|thinking)|tool_calls?$|function_call$",
    re.IGNORECASE,
)
"""Keys, beside the text, under which turns and parts hold more than their text, or reasoning before an answer."""
_OBJECTS_AS_TEXT: Final = re.compile(r"\s*(?:array\()?\[\s*\{")
_PYTHON_PARTS: Final = re.compile(
    rf"""(?=.*'type'\s*:\s*'(?:{"|".join(_OTHER_PARTS)})'|(?=.*'type'\s*:\s*'(?:{"|".join(_TEXT_PARTS)})').*'text'\s*:)"""
    r".*\}\s*\](?:,\s*dtype=object\))?\s*",
    re.DOTALL,
)
_NOTHING: Final = r"no[\s_-]*(?:input|output)(?:s|e)?"
_IN_BRACKETS: Final = r"[`\\]*[<(\[]\s*{}\s*[`\\>)\]]*[.,]?"
_NO_TEXT: Final = re.compile(_IN_BRACKETS.format(_NOTHING), re.IGNORECASE)
_NO_INPUT: Final = re.compile(
    rf"(?:{_NOTHING}(?:\s(?:required|needed|necessary|provided|given|available))?|n/a)[.,]?|"
    + _IN_BRACKETS.format(rf"(?:{_NOTHING}|none|n/a)"),
    re.IGNORECASE,
)
_DOUBTFUL: Final = re.compile(
    rf"[<(\[]?\s*(?:{_NOTHING}(?:\s\w+)*|n\.?/?a\.?|nan|none|null|nil|undefined|empty|not applicable|[-.?]+)"
    r"\s*[\])>]?\.?",
    re.IGNORECASE,
)
_LONGEST_DOUBTFUL: Final = 40


def is_missing(value: Any) -> bool:
    """Return whether ``value`` stands for an empty cell: ``None``, or the NaN of data frames."""
    return value is None or (isinstance(value, float | Decimal) and math.isnan(value))


def kind_of(value: Any) -> str:
    """Return the kind of a value in the words of JSON, with its article, for messages."""
    return next((name for kinds, name in _KINDS if isinstance(value, kinds)), f"a {type(value).__name__}")


def as_text(value: Any) -> str:
    """Return the text of a value without outer blanks; an empty cell is empty text.

    Whole numbers are written without a fraction, so that the id 1.0 of a data frame is the 1 that was meant.

    Raises:
        ValueError: The value has no one text; gives the reason.
    """
    if is_missing(value):
        return ""
    if isinstance(value, str):
        return _whole(value)
    if isinstance(value, bytes):
        return _whole(_decoded(value))
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        return _number(value)
    raise ValueError(f"is {kind_of(value)}, not text")


def joined_parts(value: Any) -> str:
    """Return the text of a message's content, which may be a list of parts, or the JSON text of such a list.

    Parts are joined by line breaks.

    Raises:
        ValueError: A part holds something other than text, or the value has no one text.
    """
    text, others = split_parts(value)
    if others:
        raise ValueError(f"has a part of type {others[0]}, of which only parts of text can be read; leave the row out")
    return text


def split_parts(value: Any) -> tuple[str, list[str]]:
    """Return the text of a message's content, and the types of its parts that hold something other than text.

    Raises:
        ValueError: The value, or the text of a part, has no one text.
    """
    if isinstance(value, str):
        value = _parsed_parts(value)
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        return as_text(value), []
    parts = [*map(_part, value)]
    return "\n".join(filter(None, (text for text, _ in parts))), [other for _, other in parts if other]


def are_parts(value: Any) -> bool:
    """Return whether ``value`` is a list of a message's parts: objects with a type, of which some are known."""
    return (
        isinstance(value, list)
        and all(isinstance(part, Mapping) and "type" in part for part in value)
        and any(part["type"] in _OTHER_PARTS or (part["type"] in _TEXT_PARTS and "text" in part) for part in value)
    )


def _parsed_parts(text: str) -> Any:
    """Return the parts whose JSON text ``text`` is, and ``text`` itself if it is the text of something else."""
    if not _OBJECTS_AS_TEXT.match(text):
        return text
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        if _PYTHON_PARTS.fullmatch(text):
            raise ValueError("holds the Python source of a list of parts; write it as a list, or as JSON") from None
        return text
    return content if are_parts(content) else text


def other_keys(value: Mapping[str, Any]) -> list[str]:
    """Return the keys under which a turn or a part holds an image, a file, a call of a tool or reasoning."""
    return [str(name) for name, inner in value.items() if _OTHER_KEYS.match(str(name)) and _is_filled(inner)]


def without_placeholder(text: str, *, is_input: bool = False) -> str:
    """Return ``text``, or empty text if it is a placeholder such as "<noinput>".

    Args:
        text: Text of a cell.
        is_input: Whether the cell is an input, where the bare words "No input" and "N/A" are placeholders, too.
    """
    return "" if (_NO_INPUT if is_input else _NO_TEXT).fullmatch(text) else text


def is_doubtful(text: str) -> bool:
    """Return whether ``text`` looks like a placeholder, for example "N/A" or "null", although it may be an answer."""
    return len(text) <= _LONGEST_DOUBTFUL and _DOUBTFUL.fullmatch(text) is not None


def comparable(value: Any) -> str:
    """Return a form in which ``false`` of a YAML file, ``False`` of a Parquet and "False" of a CSV file are equal.

    An empty cell is empty text. Numbers are equal whether a file holds 1, 1.0 or "1.0".

    Raises:
        ValueError: The value has no one text; gives the reason.
    """
    if isinstance(value, bool):
        return str(value).casefold()
    if isinstance(value, float) and math.isinf(value):
        return str(value)
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return _FRACTION_OF_ZERO.sub(r"\1", as_text(value)).casefold()


def _part(part: Any) -> tuple[str, str]:
    """Return the text of a part and no type, or no text and the type of a part of another kind."""
    if isinstance(part, str):
        return as_text(part), ""
    if not isinstance(part, Mapping):
        raise ValueError(f"has a part that is {kind_of(part)}, not text")
    kind = part.get("type")
    if kind in _TEXT_PARTS:
        others = other_keys(part)
    elif kind is None:
        others = sorted(str(name) for name, inner in part.items() if name not in ("type", "text") and inner)
    else:
        others = [str(kind)]
    if others or "text" not in part:
        return "", ", ".join(others) or str(kind or "unknown")
    return as_text(part["text"]), ""


def _is_filled(value: Any) -> bool:
    """Return whether a value holds anything: Parquet keeps the keys of an empty image, without values."""
    if isinstance(value, Mapping):
        return any(map(_is_filled, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_is_filled, value))
    return not is_missing(value) and bool(value)


def _number(value: int | float | Decimal) -> str:
    """Return the digits of a number, without an exponent."""
    # The shortest digits that give the same float: 0.1, where its exact value has 55 digits.
    exact = Decimal(float.__repr__(value)) if isinstance(value, float) else Decimal(value)
    if not exact.is_finite():
        raise ValueError(f"is the number {value}, which stands for no text")
    if isinstance(value, float) and abs(value) >= _EXACT:
        raise ValueError(f"is the number {value}, whose last digits a float may have lost; write it as text")
    exponent = exact.as_tuple().exponent
    if exact.adjusted() >= _MOST_DIGITS or (isinstance(exponent, int) and -exponent > _MOST_DIGITS):
        raise ValueError(f"is a number of more than {_MOST_DIGITS} digits; write it as text")
    return str(int(exact)) if exact == int(exact) else format(exact, "f")


def _whole(text: str) -> str:
    """Return ``text`` without outer blanks."""
    if text.isascii():
        return text.strip()
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("holds half of a surrogate pair, which is no character; mend the text") from None
    return _OUTER.sub("", text)


def _decoded(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise ValueError("holds bytes that are no UTF-8; write it as text") from None
