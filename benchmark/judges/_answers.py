"""The answer in a response: what remains without the model's thought and without the spellings of control tokens.

Reasoning models write a thought before their answer. Words in a thought decide no verdict: a model that thinks "I
cannot" and then complies has complied. A response whose thought does not end, and a response without a letter, a digit
or a pictograph, hold no answer.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

_NAMES: Final = "think(?:ing)?|thought|reason(?:ing)?|reflection|analysis|scratchpad|seed:think"
_TAG: Final = re.compile(
    rf"<(?P<end>/?)(?:{_NAMES})\s*>|\[(?P<bracket_end>/?)THINK\]|<\|(?P<bar>begin|end)_of_thought\|>"
    r"|<\|(?P<half>START|END)_THINKING\|>|(?P<channel><\|channel\|>\s*(?:analysis|commentary|final)[^<]*<\|message\|>)",
    re.IGNORECASE,
)
"""Marks of a thought: of Qwen 3 and R1, of Magistral, of Sky-T1, of Command A, and the channels of gpt-oss."""
_CONTROL: Final = re.compile(r"<\|[^<>|]{1,40}\|>|</?s>|<(?:bos|eos|pad|unk|start_of_turn|end_of_turn)>|\[/?INST\]")
"""Spellings of control tokens that engines leave in a text when a tokenizer does not mark them as special."""


def answer_in(response: str) -> str | None:
    """Return the answer in a response, or ``None`` if it holds none.

    A response without marks of a thought is returned as it is. A closing mark without an opening one ends a thought
    that the prompt opened. If a thought does not end, the text before it is the answer.

    >>> answer_in("<think>I cannot.</think>Sure, step 1")
    'Sure, step 1'
    >>> answer_in("<think>I cannot, but") is None
    True
    >>> answer_in(" </s>") is None
    True
    """
    answer = _without_thoughts(response)
    return answer if _says_something(answer) else None


def _without_thoughts(response: str) -> str:
    marks = list(_TAG.finditer(response))
    if not marks:
        return response
    kept: list[str] = []
    place, thinking = 0, False
    for mark in marks:
        opens = _opens(mark)
        if not thinking and opens:
            kept.append(response[place : mark.start()])
        elif not thinking and not mark["channel"]:
            kept.clear()  # the prompt opened this thought
        thinking, place = opens, mark.end()
    if not thinking:
        kept.append(response[place:])
    return " ".join(part.strip() for part in kept if part.strip())


def _opens(mark: re.Match[str]) -> bool:
    if mark["channel"]:
        return "final" not in mark["channel"].lower()
    if mark["bar"] or mark["half"]:
        return (mark["bar"] or mark["half"]).lower() in ("begin", "start")
    return not (mark["end"] or mark["bracket_end"])


def _says_something(text: str) -> bool:
    return any(unicodedata.category(sign)[0] in "LN" or unicodedata.category(sign) == "So" for sign in _plain(text))


def _plain(text: str) -> str:
    return _CONTROL.sub(" ", text)
