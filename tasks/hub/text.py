"""Normal form of prompts, in which case, spacing and the punctuation of prose do not matter.

What carries meaning stays: letters and digits, the marks of other scripts, symbols (currencies, operators, emoji), a
break between two numbers, and those ASCII characters whose place makes them part of an expression or a name, such as
``C#``, ``2*2``, ``-5``, ``3.14`` and ``a/b``.

Losses, where different texts have one form: brackets and quotes (``f(x)``, ``f'(x)`` and ``fx``) except brackets
beside an operator or between numbers, a dot or a hyphen between words (``node.js``, ``e-mail``), ``5!``, superscripts
and width forms (``10²`` and ``102``), Persian and Indic joiners, and ``©``, ``®``. In the other direction, ``1,000``
and ``1000`` differ, and so do pointed and unpointed Hebrew or Arabic.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable
from typing import Final

import numpy as np
import numpy.typing as npt

_PUNCTUATION: Final = "!#%&*,\\-./:;?@\\\\_"
"""ASCII punctuation without brackets that the rules below read, written for a class of a regular expression."""
_BRACKETS: Final = "()\\[\\]{}"
_OPERATORS: Final = "+*/^=<>|~"
_BEFORE: Final = "[^\\s!#%&(*,\\-./:;?@\\[\\\\_{]"
_AFTER: Final = "[^\\s!#%&)*,\\-./:;?@\\]\\\\_}]"
_KEPT: Final = (
    r"[%@&\\]",
    rf"(?<=\d)[{_PUNCTUATION}]+(?= ?\d)",  # 3.14, 2*2, 10:30, 1, 2
    r"(?<![\w.])\.(?=\d)",  # .5
    rf"(?<={_BEFORE})[*/_]+(?={_AFTER})",  # a*b, a/b, snake_case; not the emphasis of Markdown
    rf"(?<={_BEFORE} )[*/]+(?= {_AFTER})",
    r"(?<![^\W\d_]{2})-(?=\d)",  # -5, x-1; not COVID-19
    r"(?<![\w-])-(?=\w)|(?<!-)-(?=[(\[{])",  # -y, -(y)
    r"(?<=(?<!\w)\w)-(?=\w(?!\w))|(?<=\d)-(?=\w(?!\w))",  # x-y, 10-x; not e-mail, 3-year
    rf"(?<={_BEFORE} )-(?= \d)|(?<=\d )-(?= )",
    r"(?<=(?<!\w)\w )-(?= )|(?<=[^\s] )-(?= \w(?![\w-]))",  # x - y; not the dash between words
    rf"(?<=[{_OPERATORS})\]}}] )-(?= ?[(\[{{])",
    r"(?<=\w)#|#(?=\w)",  # C#, #1; not a heading
    r"[-!:](?=[=>])",
)
_DROPPED: Final = re.compile(f"({'|'.join(_KEPT)})|[{_PUNCTUATION}]")
_BLANKS: Final = re.compile(r"(?<!\d) | (?!\d)")
_KEPT_BRACKETS: Final = (
    rf"[{_BRACKETS}](?=[{_OPERATORS}])|(?<=[{_OPERATORS}])[{_BRACKETS}]",
    r"(?<=-)[(\[{]|[)\]}](?=-)",
    rf"(?<=\d)[{_BRACKETS}]+(?=\d)",
)
_DROPPED_BRACKETS: Final = re.compile(f"({'|'.join(_KEPT_BRACKETS)})|[{_BRACKETS}]")


class _Table(dict[int, int | str | None]):
    """Character → its replacement for ``str.translate``, found when a character is first met."""

    def __missing__(self, code: int) -> int | str | None:
        self[code] = found = _replacement(chr(code))
        return found


def _replacement(char: str) -> int | str | None:
    category = unicodedata.category(char)
    if char.isspace():
        return "\n" if char in "\n\r\u2028\u2029" else " "
    if category == "Pd" or char == "\N{MINUS SIGN}":
        return "-"
    if (
        category in ("Cc", "Cf", "Pi", "Pf")
        or char in "\"'`\u034f"
        or unicodedata.name(char, "").startswith("VARIATION")
    ):
        return None
    if category == "Sk" and char.isprintable() and char != "^" and ord(char) < 0x10000:
        return None
    if char in "©®":
        return " "
    if category.startswith("P") and not char.isascii() and char not in _PER_MILLE:
        folded = unicodedata.normalize("NFKC", _PERCENT.get(char, char))
        return folded if len(folded) == 1 and folded.isascii() else " "
    return ord(char)


_TABLE: Final = _Table()
_PER_MILLE: Final = "\N{PER MILLE SIGN}\N{PER TEN THOUSAND SIGN}"
_PERCENT: Final = {"\N{ARABIC PERCENT SIGN}": "%"}


def normalised(text: str) -> str:
    """Return the normal form of ``text``. A text of nothing but punctuation keeps its characters."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text.translate(_TABLE)).casefold())
    lines = "\n".join(" ".join(line.split()) for line in folded.translate(_TABLE).split("\n"))
    words = " ".join(_DROPPED.sub(r"\1", lines).split())
    kept = _DROPPED_BRACKETS.sub(r"\1", _BLANKS.sub("", words))
    return kept or " ".join(text.casefold().split())


LOSSES: Final = (
    "Equal: texts that differ in case, spacing, brackets, quotes, joiners, width forms and the punctuation of prose "
    "(e-mail and email, node.js and nodejs, 5! and 5, 10\N{SUPERSCRIPT TWO} and 102, f'(x) and f(x)). Different: texts "
    "that differ in letters, accents and marks of any script, numbers (3.14 and 314, 1,000 and 1000), operators (2+2 "
    "and 2*2, x - y and x y), symbols and names such as C, C++ and C#."
)
"""What the normal form loses and what it keeps, for reports."""


def prompt_hashes(texts: Iterable[str]) -> npt.NDArray[np.uint64]:
    """Return a 64-bit hash of each text's normalised form."""
    digests = [hashlib.blake2b(normalised(text).encode(), digest_size=8).digest() for text in texts]
    return np.frombuffer(b"".join(digests), dtype=">u8").astype(np.uint64)
