"""Cheap scores of texts: TF-IDF similarity to anchors, and signs of lists and of maths."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Final

_WORD: Final = re.compile(r"\w+")
_TOKEN: Final = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+|[+=^]")
_ITEM: Final = re.compile(r"\s*(?:[-*•]|\(?(?:\d{1,3}|[a-z])[.)])\s+\S", re.IGNORECASE)
_REQUEST: Final = re.compile(
    r"\b(?:list|lists|name|enumerate|steps|ideas|tips|examples|calculate|compute|solve|equation|sum|how many)\b",
    re.IGNORECASE,
)
"""Words by which ordinary instructions ask for a list or for a calculation."""


def anchor_similarities(texts: Sequence[str], anchors: Sequence[str]) -> list[float]:
    """Return for each text the mean cosine of its TF-IDF vector with those of the anchors.

    A vector holds count · idf for each word, where a word is a run of letters, digits and underscores in lower case.
    idf = ln((1 + N) / (1 + N_word)) + 1, with N texts and anchors together, of which N_word hold the word. This is the
    smooth form of scikit-learn's ``TfidfVectorizer``. A text without words has the similarity 0.

    Args:
        texts: Texts to score.
        anchors: Texts to compare with; at least one.
    """
    counts = [Counter(_WORD.findall(text.lower())) for text in (*texts, *anchors)]
    holders = Counter(word for count in counts for word in count)
    idf = {word: math.log((1 + len(counts)) / (1 + held)) + 1 for word, held in holders.items()}
    vectors = [_normalised({word: number * idf[word] for word, number in count.items()}) for count in counts]
    centre: defaultdict[str, float] = defaultdict(float)
    for vector in vectors[len(texts) :]:
        for word, weight in vector.items():
            centre[word] += weight / len(anchors)
    # math.fsum is exact, so that the order of words cannot decide a tie.
    return [math.fsum(weight * centre[word] for word, weight in vector.items()) for vector in vectors[: len(texts)]]


def list_and_maths_score(instruction: str, response: str) -> float:
    """Return how much a row looks like a list or like maths, from 0 to 3.

    Three shares are added: the lines of the response that are items (they begin with a bullet, a number or a letter and
    a full stop or bracket), the tokens of both texts that are numbers or signs of arithmetic, and 1 where the
    instruction asks for a list or a calculation by a word such as *list* or *solve*.
    """
    lines = [line for line in response.splitlines() if line.strip()]
    items = sum(_ITEM.match(line) is not None for line in lines)
    tokens = _TOKEN.findall(f"{instruction}\n{response}")
    numbers = sum(not token.isalpha() for token in tokens)
    asks = 1.0 if _REQUEST.search(instruction) else 0.0
    return items / max(1, len(lines)) + numbers / max(1, len(tokens)) + asks


def _normalised(vector: dict[str, float]) -> dict[str, float]:
    length = math.sqrt(math.fsum(weight * weight for weight in vector.values()))
    return {word: weight / length for word, weight in vector.items()}
