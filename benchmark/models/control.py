"""Control tokens, and the texts that spell them.

A tokenizer reads the spelling of a control token as this token wherever it stands. An answer could thus close its turn
and open another one. Only a chat template may write control tokens, so spellings in a text are taken apart.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmark.errors import UsageError
from benchmark.models.thoughts import is_mark

_MARK = re.compile(r"[^\w\s].*\w.*[^\w\s]", re.DOTALL)
"""Shape of a token such as ``<|im_end|>`` or ``[INST]``, as opposed to a word or blanks."""
_TOKEN = re.compile(
    r"<[|\uff5c].+>|<.+[|\uff5c]>|\[\|.+\|\]|\u25c1.+\u25b7|\[/?[A-Z]+(?:_[A-Z]+)*\]|</?[A-Za-z]+(?:[_:]\w+)+>",
    re.DOTALL,
)
"""Shape of an added token that no text means as itself: with bars or triangles, of capitals in brackets, or a tag with
a compound name, such as ``<|fim_prefix|>``, ``[TOOL_CALLS]`` and ``<tool_call>``. Tags of HTML are not among them,
because some tokenizers add those for texts."""

_PASSES = 8
"""Readings of a text. A spelling with a blank behind its first character could be taken apart for ever."""


class ControlTokens:
    """The control tokens of a tokenizer.

    These are its special tokens, the further added tokens that the chat template spells or that have the shape of a
    control token or of the mark of a thought, and added tokens without a row in the model's embedding. For example,
    Qwen's ``<think>`` and ``<tool_call>`` are not special.

    Args:
        tokenizer: A tokenizer of transformers.
        template: The chat template, or an empty text.
        rows: Rows of the model's embedding, or ``None`` where the model is not at hand.

    Attributes:
        ids: Their token ids.
        shaped: Spellings of those that are control tokens by their shape alone, sorted.
    """

    def __init__(self, tokenizer: Any, template: str, rows: int | None = None) -> None:
        spellings: dict[str, int] = {}
        shaped = []
        for number, token in tokenizer.added_tokens_decoder.items():
            text = str(token.content)
            written = text in template and _MARK.fullmatch(text)
            if not text.strip():
                continue
            if token.special or written or (rows is not None and number >= rows):
                spellings[text] = number
            elif _TOKEN.fullmatch(text) or is_mark(text):
                spellings[text] = number
                shaped.append(text)
        self.shaped = tuple(sorted(shaped))
        self.ids = frozenset(spellings.values())
        self._pattern = _any_of(spellings)
        # Texts hold the token of unknown words, which opens and closes no turn.
        self._guarded = self.ids - {getattr(tokenizer, "unk_token_id", None)}

    def taken_apart(self, text: str) -> str:
        """Return ``text`` with a blank behind the first character of each spelling; other texts are unchanged.

        For example, ``red </s> blue`` becomes ``red < /s> blue``. A spelling may end in another one, so the result is
        read again.
        """
        if self._pattern is None:
            return text
        for _ in range(_PASSES):
            before, text = text, self._pattern.sub(_apart, text)
            if text == before:
                break
        return text

    def among(self, ids: Sequence[int]) -> int:
        """Return the number of control tokens among ``ids``, without the token of unknown words."""
        return sum(number in self._guarded for number in ids)

    def count(self, *texts: str) -> int:
        """Return the number of spellings in the texts."""
        if self._pattern is None:
            return 0
        return sum(len(self._pattern.findall(text)) for text in texts)


def remark(count: int, place: str) -> str:
    """Return a remark about the spellings in a place, or an empty text if there are none."""
    spellings = "spelling of a control token" if count == 1 else "spellings of control tokens"
    return f"{place}: {count} {spellings} taken apart, so that no text becomes a control token" if count else ""


def check_rows(ids: Sequence[int], rows: int, tokenizer: Any, folder: Path) -> None:
    """Check that every token has a row in the model's embedding; on a GPU a missing row would end the process.

    Args:
        ids: Token ids of a text.
        rows: Rows of the embedding.
        tokenizer: The tokenizer.
        folder: Folder of the checkpoint, for the error message.

    Raises:
        UsageError: A token has no row; the message names the token.
    """
    largest = max(ids, default=0)
    if largest >= rows:
        raise UsageError(
            f"token {tokenizer.convert_ids_to_tokens(largest)!r} of {folder} has id {largest}, and the embedding has "
            f"{rows} rows; name another pad_token or template in the suite's models, or resize the embedding "
            f"with resize_token_embeddings and save the model"
        )


def _any_of(spellings: dict[str, int]) -> re.Pattern[str] | None:
    if not spellings:
        return None
    # A look at the first character rejects most places of a text before hundreds of spellings are tried.
    first = "".join(sorted({re.escape(text[0]) for text in spellings}))
    longest_first = sorted(spellings, key=lambda text: (-len(text), text))
    return re.compile(f"(?=[{first}])(?:{'|'.join(map(re.escape, longest_first))})")


def _apart(match: re.Match[str]) -> str:
    return f"{match[0][0]} {match[0][1:]}" if len(match[0]) > 1 else " "
