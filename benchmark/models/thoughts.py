"""Marks between which reasoning models write a thought before their answer.

A mark is recognised by its shape (``<…>``, ``<|…|>``, ``◁…▷`` and the like) and by a word of thinking in its name, so
that marks of models that appear later are found as well. Marks of channels name the channel behind a fixed token.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

_ATTRIBUTES: Final = (
    r"(?:\s{1,9}[\w:.-]{1,40}\s?=\s?(?:\"[^\"<>]{0,80}\"|'[^'<>]{0,80}'|[^\s\"'<>/]{1,80})){0,8}\s{0,9}"
)
_MARK: Final = re.compile(
    r"(?:<\|(?:end|call|return)\|>\s*)?(?:<\|start\|>[^<\n]{0,200})?"
    r"<\|channel\|>\s*(?P<channel>\w*)(?:(?:[^<\n]|<\|constrain\|>){0,200}<\|message\|>|\s*\Z)"
    r"|<\|start\|>(?P<message>[^<\n]{0,200})<\|message\|>"
    r"|<\|channel>\s*(?P<opened>\w*)|(?P<closed><channel\|>)"
    r"|<\|(?P<part>open|close)\|>\s*(?P<name>\w{1,40})[^<\n]{0,80}<\|sep\|>"
    rf"|<(?P<tag>/?[A-Za-z][\w:.|-]{{0,60}}){_ATTRIBUTES}(?P<whole>/?)>"
    r"|(?:<[|\uff5c]?|\u25c1|\[\|)(?P<bar>/?[A-Za-z][\w\u2581:./-]{0,60})(?:[|\uff5c]>|\u25b7|\|\])"
    r"|<[|\uff5c](?P<half>/?[A-Za-z][\w:./-]{0,60})>"
    r"|\[(?P<bracket>/?(?:THINK|THINKING|THOUGHT|REASONING))\]"
)
"""Channels of gpt-oss and of Gemma, Kimi's parts of a message, tags, tokens with bars on both sides or on one, and
Mistral's brackets."""
_SENTENCES: Final = re.compile(
    r"\A\s*here(?: i|['\u2019])s my thought process:.*?\bhere(?: i|['\u2019])s my response:", re.IGNORECASE | re.DOTALL
)
"""Sentences of Granite around a thought."""

_WORDS: Final = re.compile(r"[^\W_]+")
_ENDINGS: Final = ("think", "thinking", "thought", "thoughts")
_WITHIN: Final = {"reasoning": "reason", "cot": "cot", "scratchpad": "scratchpad", "monologue": "monologue"}
"""Words of thinking in a longer name, such as ``reasoning_content``, with the name of their kind."""
_ALONE: Final = frozenset({"reason", "reflection", "analysis", "rationale", "deliberation"})
"""Words that are a mark as the whole name only: ``risk_analysis`` may be a part of an answer."""
_SWITCHES: Final = frozenset({"no", "non", "not", "off", "without", "disable", "enable"})
"""Words of a name that switches thinking instead of marking a thought, such as ``no_think``."""
_BEGIN: Final = frozenset({"begin", "start", "open", "prefix", "of"})
_END: Final = frozenset({"end", "stop", "close", "suffix"})
_COUNTERPARTS: Final = {"begin": "end", "start": "end", "prefix": "suffix", "open": "close"}
_OPENING_WORD: Final = re.compile(rf"(?<![A-Za-z])(?:{'|'.join(_COUNTERPARTS)})(?![A-Za-z])", re.IGNORECASE)
_SPEECH: Final = frozenset({"final", "response", "answer", "content", "message"})
"""Channels and parts that hold the answer."""
_FRAME: Final = frozenset({"<|start|>", "<|end|>", "<|call|>", "<|return|>", "<|message|>", "<|constrain|>", "<|sep|>"})
"""Tokens around the name of a channel or a part, which have another meaning in other models."""
_NAMING: Final = frozenset({"<|channel|>", "<|channel>", "<|open|>", "<|close|>"})
"""Tokens in front of the name of a channel or a part."""


@dataclass(frozen=True)
class Mark:
    """A mark of a thought in a text.

    Attributes:
        start: Place of its first character.
        end: Place behind its last character.
        role: Whether a thought ``opens`` or ``closes`` here, the ``answer`` of a channel begins, or a mark stands
            ``empty`` for a whole thought.
        kind: Kind of the mark; a thought ends at a mark of the kind that opened the thought.
    """

    start: int
    end: int
    role: Literal["opens", "closes", "answer", "empty"]
    kind: str


def marks(text: str) -> list[Mark]:
    """Return the marks of thoughts in a text, in order. A mark in backticks is a mention and is left out."""
    return list(_marks(text))


def without_thoughts(text: str) -> str:
    """Return a text without its thoughts; a text without marks is returned as it is.

    A closing mark without an opening one ends a thought that the prompt opened. A thought without an end reaches to
    the end of the text.
    """
    sentences = _SENTENCES.match(text)
    text = text[sentences.end() :] if sentences else text
    found = marks(text)
    if not found:
        return text.strip() if sentences else text
    kept: list[str] = []
    place, thought = 0, ""
    for mark in found:
        if thought and not (mark.kind == thought and mark.role in ("closes", "answer")):
            continue
        if mark.role == "closes" and not thought:
            kept.clear()
        elif not thought:
            kept.append(text[place : mark.start])
        thought = mark.kind if mark.role == "opens" else ""
        place = mark.end
    if not thought:
        kept.append(text[place:])
    return " ".join(part.strip() for part in kept if part.strip())


def open_thought(text: str) -> Mark | None:
    """Return the mark that opens a thought which does not end in the text, or ``None``."""
    thought: Mark | None = None
    for mark in marks(text):
        if thought is None:
            thought = mark if mark.role == "opens" else None
        elif mark.kind == thought.kind and mark.role in ("closes", "answer"):
            thought = None
    return thought


def closing_mark(opening: str) -> str:
    """Return the mark that closes a thought which a mark opened, or an empty text if it is not known.

    >>> closing_mark("<think>"), closing_mark("[THINK]"), closing_mark("<|START_THINKING|>")
    ('</think>', '[/THINK]', '<|END_THINKING|>')
    """
    if opening.startswith("<|channel|>"):
        return "<|end|><|start|>assistant<|channel|>final<|message|>"
    if opening.startswith("<|channel>"):
        return "<channel|>"
    if word := _OPENING_WORD.search(opening):
        end = _COUNTERPARTS[word[0].lower()]
        return opening[: word.start()] + (end.upper() if word[0].isupper() else end) + opening[word.end() :]
    if opening.startswith("<") and opening[1:2].isalpha():
        name = re.split(r"[\s>]", opening[1:])[0]
        return f"</{name}>"
    return opening[0] + "/" + opening[1:] if opening.startswith(("[T", "[R", "\u25c1")) else ""


def is_mark(token: str) -> bool:
    """Return whether a token is the mark of a thought, or stands in front of the name of a channel."""
    token = token.strip()
    if names_follow(token):
        return True
    found = marks(token)
    return len(found) == 1 and (found[0].start, found[0].end) == (0, len(token))


def names_follow(token: str) -> bool:
    """Return whether the name of a channel or a part follows a token."""
    return token.strip() in _NAMING


def frames_marks(token: str) -> bool:
    """Return whether a token is part of a mark in texts that hold a token in front of the name of a channel."""
    return token.strip() in _FRAME


def _marks(text: str) -> Iterator[Mark]:
    for match in _MARK.finditer(text):
        start, end = match.span()
        if text[start - 1 : start] == "`" == text[end : end + 1]:
            continue
        meaning = _channel(match) or _tag(match)
        if meaning is not None:
            yield Mark(start, end, *meaning)


_Meaning = tuple[Literal["opens", "closes", "answer", "empty"], str]


def _channel(match: re.Match[str]) -> _Meaning | None:
    if match["channel"] is not None or match["message"] is not None:
        # A message without a channel is speech.
        name = match["channel"] if match["channel"] is not None else "final"
        return ("answer" if name in _SPEECH else "opens"), "channel"
    if match["opened"] is not None:
        return ("answer" if match["opened"] in _SPEECH else "opens"), "half channel"
    if match["closed"]:
        return "closes", "half channel"
    if match["part"]:
        if match["name"] not in _ENDINGS:
            return "answer", "part"
        return ("opens" if match["part"] == "open" else "closes"), "part"
    return None


def _tag(match: re.Match[str]) -> _Meaning | None:
    name = match["tag"] or match["bar"] or match["half"] or match["bracket"] or ""
    words = [word.lower() for word in _WORDS.findall(name)]
    closes = name.startswith("/") or bool(_END & set(words))
    kind = _kind([word for word in words if word not in _BEGIN | _END], words)
    if not kind:
        return None
    return ("empty" if match["whole"] else "closes" if closes else "opens"), kind


def _kind(core: list[str], words: list[str]) -> str:
    """Return the kind of a mark from the words of its name, or an empty text."""
    if _SWITCHES & set(words):
        return ""
    if any(word.endswith(_ENDINGS) for word in core):
        return "think"
    found = next((_WITHIN[word] for word in core if word in _WITHIN), "")
    if found:
        return found
    if words in (["inner", "prefix"], ["inner", "suffix"]):
        return "inner"
    if core == ["working", "out"] and core != words:
        return "working"
    return core[0] if len(core) == 1 and core[0] in _ALONE else ""
