"""Normal form of prompts, in which case, punctuation and spacing do not matter."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt


def normalised(text: str) -> str:
    """Return the letters and digits of ``text`` in lower case. A text without any keeps its other characters."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(filter(str.isalnum, folded)) or " ".join(folded.split())


def prompt_hashes(texts: Iterable[str]) -> npt.NDArray[np.uint64]:
    """Return a 64-bit hash of each text's normalised form."""
    digests = [hashlib.blake2b(normalised(text).encode(), digest_size=8).digest() for text in texts]
    return np.frombuffer(b"".join(digests), dtype=">u8").astype(np.uint64)
