"""Turns of a conversation, in the conventions of public data sets."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Final

from tasks.hub.values import as_text, is_missing, kind_of, other_keys, split_parts

USERS: Final = ("user", "human", "prompter")
ASSISTANTS: Final = ("assistant", "gpt", "chatgpt", "model", "bing", "bard", "bot", "chatbot", "ai")
SYSTEMS: Final = ("system", "developer")
_NAMED: Final = (*SYSTEMS, "tool", "function")
"""Roles beside users and assistants that conversations are known to have."""
_ROLES: Final = ("role", "from")
_CONTENTS: Final = ("content", "value", "text")
_PYTHON_LIST: Final = re.compile(r"\s*(?:array\()?\[\s*\{\s*'")
_ROLES_SHOWN: Final = 4

Turn = tuple[str, str]
"""Role and text. Roles are ``user`` and ``assistant`` where they have another name for them, in lower case."""


def read_turns(value: Any) -> Iterator[Turn]:
    """Yield the turns of a conversation; an empty cell has none. A turn is checked when it is read.

    A conversation is a list of objects, an object of lists of equal length, or the JSON text of one of them. A turn
    has a role (``role`` or ``from``) and a text (``content``, ``value`` or ``text``); the first that is filled counts.

    Raises:
        ValueError: The value does not hold a conversation; the message names what it holds.
    """
    if is_missing(value):
        return
    value = parsed(value)
    if isinstance(value, Mapping):
        value = _transposed(value)
    if not isinstance(value, list):
        is_source = isinstance(value, str) and _PYTHON_LIST.match(value)
        found, way = (
            ("the Python source of a list", "write it as JSON")
            if is_source
            else (kind_of(value), "mend columns or format")
        )
        raise ValueError(f"no conversation: {found} was found and a list of turns was expected; {way}")
    for number, turn in enumerate(value, start=1):
        yield _turn(number, turn)


def spoken(turns: Iterable[Turn]) -> Iterator[Turn]:
    """Yield ``turns`` without system turns that are empty."""
    return (turn for turn in turns if turn[1] or turn[0] not in SYSTEMS)


def opening(turns: Iterable[Turn]) -> list[Turn]:
    """Return the first two turns beside empty system turns. Later turns are not read."""
    return [*islice(spoken(turns), 2)]


def described(turns: Iterable[Turn]) -> str:
    """Return the number of turns and their first roles, for example ``3 turns (system, user, assistant)``."""
    roles = [role for role, _ in turns]
    if not roles:
        return "no turn"
    more = ", …" if len(roles) > _ROLES_SHOWN else ""
    return f"{len(roles)} turn{'s' if len(roles) > 1 else ''} ({', '.join(roles[:_ROLES_SHOWN])}{more})"


def unknown_roles(turns: Iterable[Turn]) -> list[str]:
    """Return the roles that stand for neither a user, an assistant, a system nor a tool, without repeats."""
    roles = (role.partition(" with ")[0] for role, _ in turns)
    return [*dict.fromkeys(role for role in roles if role not in (*USERS, *ASSISTANTS, *_NAMED))]


def parsed(value: Any) -> Any:
    """Return the list or object whose JSON text ``value`` is; other values are returned unchanged."""
    if not isinstance(value, str | bytes):
        return value
    try:
        content = json.loads(value)
    except (ValueError, RecursionError):
        return value
    return content if isinstance(content, list | dict) else value


def _transposed(value: Mapping[str, Any]) -> Any:
    columns = {name: inner for name, inner in value.items() if not is_missing(inner)}
    if not columns or not all(isinstance(inner, list) for inner in columns.values()):
        raise ValueError(
            f"no conversation: an object with {', '.join(map(str, value)) or 'no keys'} was found and a list of turns "
            f"was expected; mend columns, or reach inside with .<key>"
        )
    if len({len(inner) for inner in columns.values()}) > 1:
        lengths = ", ".join(f"{name} {len(inner)}" for name, inner in columns.items())
        raise ValueError(f"no conversation: its lists differ in length ({lengths}); mend the row")
    return [dict(zip(columns, turn, strict=True)) for turn in zip(*columns.values(), strict=True)]


def _turn(number: int, turn: Any) -> Turn:
    if not isinstance(turn, Mapping):
        raise ValueError(f"turn {number} is {kind_of(turn)}, where an object with role and content was expected")
    role, content = _first(number, turn, _ROLES), _first(number, turn, _CONTENTS)
    if is_missing(role) or not any(name in turn for name in _CONTENTS):
        keys = ", ".join(map(str, turn)) or "nothing"
        raise ValueError(f"a turn without role and content (or from and value): turn {number} has {keys}")
    try:
        name = as_text(role).casefold()
    except ValueError as error:
        raise ValueError(f"the role of turn {number} {_with_way(error, 'write it as text')}") from None
    try:
        text, others = split_parts(content)
    except ValueError as error:
        reason = _with_way(error, "write it as text or as a list of parts of text")
        raise ValueError(f"the content of turn {number} {reason}") from None
    name = "user" if name in USERS else "assistant" if name in ASSISTANTS else name
    # The text of a turn does not hold its calls, images or reasoning, so that the turn is none of those that are read.
    others += other_keys(turn)
    return (f"{name} with {others[0]}" if others else name), text


def _with_way(error: ValueError, way: str) -> str:
    """Return the message of ``error``, with ``way`` as the way out if it has none."""
    return str(error) if ";" in str(error) else f"{error}; {way}"


def _first(number: int, turn: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    """Return the first filled value among ``names``; two different ones are refused."""
    filled = {name: turn[name] for name in names if not is_missing(turn.get(name)) and turn[name] not in ("", [])}
    values = list(filled.values())
    if any(value != values[0] for value in values):
        raise ValueError(f"turn {number} has different texts in {' and '.join(filled)}; keep one of them")
    return values[0] if values else None
