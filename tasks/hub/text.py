"""Normal form of prompts, in which case, spacing and the punctuation of prose do not matter.

What carries meaning stays: letters and digits, the marks of other scripts, symbols (currencies, operators, emoji), a
break between two numbers, and those ASCII characters whose place makes them part of an expression or a name, such as
``C#``, ``2*2``, ``-5``, ``3.14`` and ``a/b``.

Losses, where different texts have one form: brackets and quotes (``f(x)`` and ``fx``) except brackets beside an
operator, a dot or a hyphen between letters (``node.js``, ``a-b``), ``n!``, superscripts and width forms (``x²`` and
``x2``), Persian and Indic joiners, and ``©``, ``®``. In the other direction, ``1,000``
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

_PUNCTUATION: Final = "!#%&()*,\\-./:;?@\\[\\\\\\]_{}"
"""ASCII punctuation that the rules below read, written for a class of a regular expression."""
_OPERATORS: Final = "+*/^=<>|~"
_BEFORE: Final = "[^\\s!#%&(*,\\-./:;?@\\[\\\\_{]"
_AFTER: Final = "[^\\s!#%&)*,\\-./:;?@\\]\\\\_}]"
_KEPT: Final = (
    r"[%@&\\]",
    rf"(?<=\d)[{_PUNCTUATION}]+(?= ?\d)",  # 3.14, 2*2, 10:30, 1, 2
    rf"(?<={_BEFORE})[*/_]+(?={_AFTER})",  # a*b, a/b, snake_case; not the emphasis of Markdown
    rf"(?<={_BEFORE} )[*/]+(?= {_AFTER})",
    r"(?<![^\W\d_]{2})-(?=\d)",  # -5, x-1; not COVID-19
    rf"(?<={_BEFORE} )-(?= \d)",
    rf"(?<=\d )-(?= {_AFTER})",
    r"(?<=\w)#|#(?=\w)",  # C#, #1; not a heading
    r"[-!:](?=[=>])",
    rf"[()\[\]{{}}](?=[{_OPERATORS}])|(?<=[{_OPERATORS}])[()\[\]{{}}]",
)
_DROPPED: Final = re.compile(f"({'|'.join(_KEPT)})|[{_PUNCTUATION}]")
_BLANKS: Final = re.compile(r"(?<!\d)\s+|\s+(?!\d)")


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
        or char in "\"'`©®\u034f"
        or unicodedata.name(char, "").startswith("VARIATION")
    ):
        return None
    if category == "Sk" and char.isprintable() and char != "^" and ord(char) < 0x10000:
        return None
    if category.startswith("P") and not char.isascii():
        return " "
    return ord(char)


_TABLE: Final = _Table()


def normalised(text: str) -> str:
    """Return the normal form of ``text``. A text of nothing but punctuation keeps its characters."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text.translate(_TABLE)).casefold())
    lines = "\n".join(" ".join(line.split()) for line in folded.translate(_TABLE).split("\n"))
    kept = _BLANKS.sub("", _DROPPED.sub(r"\1", lines)).replace("\n", " ")
    return kept or " ".join(text.casefold().split())


LOSSES: Final = (
    "Equal: texts that differ in case, spacing, brackets, quotes, joiners, width forms and the punctuation of prose "
    "(e-mail and email, node.js and nodejs, x\N{SUPERSCRIPT TWO} and x2). Different: texts that differ in letters, "
    "accents and marks of any script, numbers (3.14 and 314, 1,000 and 1000), operators (2+2 and 2*2), symbols and "
    "names such as C, C++ and C#."
)
"""What the normal form loses and what it keeps, for reports."""


def prompt_hashes(texts: Iterable[str]) -> npt.NDArray[np.uint64]:
    """Return a 64-bit hash of each text's normalised form."""
    digests = [hashlib.blake2b(normalised(text).encode(), digest_size=8).digest() for text in texts]
    return np.frombuffer(b"".join(digests), dtype=">u8").astype(np.uint64)
