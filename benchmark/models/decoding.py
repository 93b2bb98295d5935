"""Texts of generated token ids, in which the marks of thoughts remain.

Control tokens are left out of an answer. Some tokenizers declare the marks of a thought as control tokens, such as
Magistral's ``[THINK]`` and the channels of gpt-oss. Without its marks, a thought could not be told from the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from benchmark.models.thoughts import frames_marks, is_mark, names_follow


class AnswerDecoder:
    """Decodes the ids of one tokenizer.

    Args:
        tokenizer: A tokenizer of transformers.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        special = {number: str(token.content) for number, token in _added(tokenizer).items() if token.special}
        self._marks = {number: text for number, text in special.items() if is_mark(text)}
        self._naming = frozenset(number for number, text in self._marks.items() if names_follow(text))
        self._frames = {number: text for number, text in special.items() if frames_marks(text)}

    def texts(self, answers: Sequence[tuple[int, ...]]) -> list[str]:
        """Return the text of each answer without special tokens, except marks of thoughts."""
        return [self.text(answer) for answer in answers]

    def text(self, ids: Sequence[int]) -> str:
        """Return the text of generated ids without special tokens, except marks of thoughts."""
        kept = self._marks
        if not self._naming.isdisjoint(ids):
            # The name of a channel stands between further special tokens.
            kept = {**self._marks, **self._frames}
        if kept.keys().isdisjoint(ids):
            return self._plain(list(ids))
        parts = []
        for is_kept, run in groupby(ids, key=kept.__contains__):
            numbers = list(run)
            parts += [kept[number] for number in numbers] if is_kept else [self._plain(numbers)]
        return "".join(parts)

    def _plain(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))


def _added(tokenizer: Any) -> dict[int, Any]:
    added: dict[int, Any] = tokenizer.added_tokens_decoder
    return added
