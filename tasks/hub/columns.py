"""Mapping of a source's columns to instruction, response, id, label and target."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

from benchmark.errors import FedSafetyError, UsageError, unknown_name
from tasks.hub.conversations import ASSISTANTS, USERS, Turn, described, opening, read_turns, spoken, unknown_roles
from tasks.hub.files import Records
from tasks.hub.filters import FILTERS, Row, Rule, cell_reason
from tasks.hub.settings import DatasetSource, Value
from tasks.hub.values import (
    are_parts,
    comparable,
    is_doubtful,
    is_missing,
    joined_parts,
    kind_of,
    without_placeholder,
)

NAMES: Final = ("instruction", "input", "response", "conversation", "id", "label", "reference", "target")
"""Our names of columns."""
COLUMNS: Final = ("id", "instruction", "response", "label", "alone", "target")
"""Texts of a row that was read: ``alone`` is an instruction without its input, and ``response`` may be a reference."""
_NEEDED: Final = {"pairs": ("instruction", "response"), "chat": ("conversation",), "prompts": ("instruction",)}
_OPTIONAL: Final = {"pairs": ("input",), "chat": (), "prompts": ("input", "response", "reference", "target")}
"""Format → names that it may read beside the needed ones, ``id`` and ``label``."""
_STEP: Final = re.compile(r"\.?([^.\[\]]+)|\[(\d+)\]")


@dataclass(frozen=True)
class Path:
    """A place inside a row, such as ``turns[0]`` or ``meta.language``.

    Attributes:
        column: Column of the row.
        steps: Keys and indices to follow inside the column's value.
    """

    column: str
    steps: tuple[str | int, ...]

    def __str__(self) -> str:
        """Return the place as settings write it."""
        return self.column + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in self.steps)

    def __call__(self, row: Mapping[str, Any]) -> Any:
        """Return the value at this place of ``row``, or ``None`` if the row has no such place.

        Raises:
            ValueError: A step leads into a value that is neither a list nor an object.
        """
        value: Any = row.get(self.column)
        for step in self.steps:
            if is_missing(value):
                return None
            if isinstance(step, int) and isinstance(value, list):
                value = value[step] if step < len(value) else None
            elif isinstance(step, str) and isinstance(value, Mapping):
                value = value.get(step)
            else:
                expected = f"a list for [{step}]" if isinstance(step, int) else f"an object with the key {step!r}"
                raise ValueError(f"holds {kind_of(value)}, where {expected} was expected")
        return value


class Reader:
    """Reads a source's rows by our names.

    Args:
        source: Settings with the mapping. A name without a mapping stands for the column of that name. ``a|b`` reads
            the first of the columns that exists, because the hub and a local copy may name a column differently.
        records: Rows in the form of the source.

    Attributes:
        columns: Columns that are read: mapped ones, and those of conditions and filters.

    Raises:
        UsageError: The mapping or ``where`` names a column that does not exist (suggests the nearest), or the mapping
            has a name that the format does not read.
    """

    def __init__(self, source: DatasetSource, records: Records) -> None:
        for name in source.columns:
            if name not in NAMES:
                raise unknown_name(f"name of a column of {records.name}", name, NAMES)
        _check_names(source)
        if not records.columns:
            raise UsageError(f"{records.name} holds no rows; name a file that holds some")
        self.source, self.records = source, records
        names = dict.fromkeys(_NEEDED[source.format]) | dict.fromkeys(source.columns)
        if source.prompt:
            del names["instruction"]
        self._paths = {name: self._path(source.columns.get(name, name)) for name in names}
        self._prompt_paths = {name: self._path(name) for name in source.prompt_columns}
        self._where = {column: (self._path(column), values) for column, values in source.where.items()}
        extra = [column for name in source.filters for column in FILTERS[name].columns]
        for name in source.filters:
            for column in FILTERS[name].columns:
                if column not in records.columns:
                    raise unknown_name(
                        f"column of {records.name}, which filter {name!r} reads:", column, records.columns
                    )
        self.columns = sorted(
            {path.column for path in (*self._paths.values(), *self._prompt_paths.values())}
            | {path.column for path, _ in self._where.values()}
            | {*extra}
        )

    def rows(self) -> Iterator[SourceRow]:
        """Yield the rows in the order of the source."""
        for number, raw in enumerate(self.records.read(self.columns), start=1):
            yield SourceRow(number, raw, self._paths, self._prompt_paths, self.source, self.records.place_of)

    def conditions(self) -> list[Rule]:
        """Return a rule for each entry of ``where``."""
        return [_condition(column, path, values) for column, (path, values) in self._where.items()]

    @property
    def mapping(self) -> dict[str, str]:
        """Our name of a column → place that is read for it, or the prompt that is made of columns."""
        prompt = {"instruction": self.source.prompt} if self.source.prompt else {}
        return prompt | {name: str(path) for name, path in self._paths.items()}

    def _path(self, text: str) -> Path:
        """Return the first of the ``|``-separated places whose column exists."""
        places = [self._place(place.strip()) for place in text.split("|")]
        existing = [place for place in places if place.column in self.records.columns]
        if not existing:
            raise unknown_name(f"column of {self.records.name}", places[0].column, self.records.columns)
        return existing[0]

    def _place(self, text: str) -> Path:
        """Return the column of this name, or the place inside a column that ``text`` describes."""
        return Path(text, ()) if text in self.records.columns else _parsed(text, self.records.name)


@dataclass(frozen=True)
class SourceRow:
    """One row of a source.

    Attributes:
        number: Position in the source, from 1.
        raw: Row in the form of the source.
        paths: Our name of a column → place in ``raw``.
        prompt_paths: Column that the prompt names → place in ``raw``.
        source: Settings of the source.
        place_of: Returns the file and the row of a number, for messages.
        placeholders: Placeholders in the cells that were read: our column, text, and whether it was read as empty.
    """

    number: int
    raw: Mapping[str, Any]
    paths: Mapping[str, Path]
    prompt_paths: Mapping[str, Path]
    source: DatasetSource
    place_of: Callable[[int], str]
    placeholders: set[tuple[str, str, bool]] = field(default_factory=set)

    def turns(self) -> Iterator[Turn]:
        """Yield (role, text) of every turn of the conversation.

        Raises:
            FedSafetyError: The row holds no conversation; see :func:`tasks.hub.conversations.read_turns`.
        """
        if "conversation" not in self.paths:
            raise self._error("no conversation: no column is mapped to it; mend columns or format")
        try:
            yield from read_turns(self.paths["conversation"](self.raw))
        except ValueError as error:
            raise self._error(str(error)) from None

    @cached_property
    def _opening(self) -> list[Turn]:
        return opening(self.turns())

    def word(self, column: str, *steps: str | int) -> str:
        """Return a cell, or a place inside it, in comparable form. See :class:`tasks.hub.filters.Row`.

        Raises:
            FedSafetyError: The value has no one text.
        """
        try:
            return comparable(Path(column, steps)(self.raw))
        except ValueError as error:
            raise self._error(f"column {column!r} {error}; rows cannot be chosen by it") from None

    def text(self, name: str) -> str:
        """Return the text of our column ``name``; empty if the column is. See :class:`tasks.hub.filters.Row`."""
        if self.source.format == "chat" and name in ("instruction", "response"):
            role = "user" if name == "instruction" else "assistant"
            return next((text for speaker, text in self._opening if speaker == role), "")
        if self.source.format == "prompts" and name == "response" and self.source.response:
            return self.source.response
        if name == "response" and "reference" in self.paths:
            return self._column("reference")
        if name == "instruction" and self.source.prompt:
            texts = {column: self._text_at(path, column) for column, path in self.prompt_paths.items()}
            return self.source.filled_prompt(texts) if all(texts.values()) else ""
        if name == "instruction":
            # Joined by a blank, as in the code of the published runs.
            return f"{self._column('instruction')} {self._column('input')}".strip()
        return self._column(name)

    def lacking(self) -> list[str]:
        """Return the texts that this row lacks. See :class:`tasks.hub.filters.Row`."""
        has_response = (
            self.source.format != "prompts" or self.source.response or {"response", "reference"} & {*self.paths}
        )
        names = ("instruction", "response") if has_response else ("instruction",)
        return [name for name in names if not self.text(name)]

    def checked(self) -> tuple[str, ...]:
        """Return the texts of :data:`COLUMNS`; ``alone`` is empty for an instruction without an input.

        Raises:
            FedSafetyError: The row lacks an instruction, a required response or a mapped reference, has a value without
                an answer, or is a conversation of several turns without a filter for them.
        """
        if self.source.format == "chat" and not {"single_turn", "first_turn"} & {*self.source.filters}:
            self._check_exchange([*spoken(self.turns())])
        instruction, response = self.text("instruction"), self.text("response")
        answer = "reference" if "reference" in self.paths else "response"
        for name, value in (("instruction", instruction), (answer, response)):
            if not value and not (name == "response" and self.source.format == "prompts"):
                raise self._error(f"no text for {name}; mend the row or the columns, or add the filter with_text")
        alone = self._column("instruction") if self._column("input") else ""
        row_id = self._column("id") or f"{self.number:04d}"
        return row_id, instruction, response, self._column("label"), alone, self._column("target")

    def _check_exchange(self, turns: list[Turn]) -> None:
        roles = [role for role, _ in turns]
        if roles == ["user", "assistant"]:
            return
        if not roles:
            raise self._error("no turn in the conversation; fill the row, or add the filter with_text")
        if roles[:2] == ["user", "assistant"]:
            way = "single_turn (leaves such rows out) or first_turn (reads the first two turns)"
        else:
            way = "single_turn or first_turn, which leave such rows out, or write the row as a question and its answer"
        if unknown_roles(turns):
            way += f"; known roles are {', '.join(USERS)} for the question and {', '.join(ASSISTANTS)} for the answer"
        raise self._error(f"{described(turns)}, where one question and its answer were expected; add the filter {way}")

    def _column(self, name: str) -> str:
        if name not in self.paths:
            return ""
        if name in ("response", "reference") and self.source.answers:
            return self._answer(name)
        text = self._text_at(self.paths[name], name)
        if name not in ("input", "response"):
            return text
        kept = without_placeholder(text, is_input=name == "input")
        if kept != text or is_doubtful(text):
            self.placeholders.add((name, text, not kept))
        return kept

    def _answer(self, name: str) -> str:
        """Return the answer that the source names for the value of our column ``name``; empty for an empty cell."""
        value = self.word(self.paths[name].column, *self.paths[name].steps)
        answers = self.source.answers
        if value and value not in answers:
            raise self._error(
                f"{name} (column {self.paths[name].column!r}) is {value!r}, for which no answer is named; answers has "
                f"{', '.join(answers)}; add the value, or leave such rows out by where"
            )
        return answers[value] if value else ""

    def _text_at(self, path: Path, name: str) -> str:
        """Return the text at a place; ``name`` stands for it in messages."""
        try:
            return joined_parts(self._inside(path))
        except ValueError as error:
            raise self._error(f"{name} (column {path.column!r}) {error}") from None

    def _inside(self, path: Path) -> Any:
        """Return the value at a place: a single value, or the parts of a message."""
        value = path(self.raw)
        if isinstance(value, list | Mapping) and not are_parts(value):
            inside = "[0]" if isinstance(value, list) else ".<key>"
            raise ValueError(f"is {kind_of(value)}, not text; reach inside it with {inside}")
        return value

    def _error(self, reason: str) -> FedSafetyError:
        return FedSafetyError(f"{self.place_of(self.number)}: {reason}")


def _check_names(source: DatasetSource) -> None:
    """Refuse a mapping to names that are not read, because the report would show them as read."""
    if source.response and "response" in source.columns:
        raise UsageError("response gives every row the same answer, and columns maps response, too; leave one out")
    if {"response", "reference"} <= {*source.columns}:
        raise UsageError("columns maps both response and reference, and a probe has one expected answer; leave one out")
    names = (*_NEEDED[source.format], *_OPTIONAL[source.format], "id", "label")
    if unread := [name for name in source.columns if name not in names]:
        raise UsageError(
            f"format {source.format!r} does not read {unread[0]!r}, to which {source.columns[unread[0]]!r} is mapped; "
            f"it reads {', '.join(names)}; leave the mapping out, or mend format"
        )


def _parsed(text: str, name: str) -> Path:
    steps: list[str | int] = []
    end = 0
    for match in _STEP.finditer(text):
        if match.start() != end:
            break
        end = match.end()
        steps.append(match[1] if match[1] is not None else int(match[2]))
    if end != len(text) or not steps or not isinstance(steps[0], str):
        raise UsageError(f"{text!r} is no place in a row of {name}; write column, column.key or column[0]")
    return Path(steps[0], tuple(steps[1:]))


def _condition(column: str, path: Path, allowed: Value | tuple[Value, ...]) -> Rule:
    values = {comparable(value) for value in (allowed if isinstance(allowed, tuple) else (allowed,))}

    def cell(row: Row) -> str:
        return row.word(path.column, *path.steps)

    name = f"{column}={'|'.join(map(str, allowed)) if isinstance(allowed, tuple) else allowed}"
    return Rule(name, lambda row: cell(row) in values, lambda row: cell_reason(column, cell(row)))
