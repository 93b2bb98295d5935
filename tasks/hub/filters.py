"""Named filters: small rules that select rows of a data set.

The published recipe for real chats [ye2024, section 6.1 and released code] is ``single_turn``, ``english`` and
``unflagged_reply``; for BeaverTails it is ``unsafe`` and ``deduplicate_instructions``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from benchmark.errors import UsageError, unknown_name
from tasks.hub.conversations import described, opening, parsed, spoken
from tasks.hub.text import normalised
from tasks.hub.values import without_placeholder
from tasks.refusals import is_refusal


class Row(Protocol):
    """Part of a row that filters read."""

    @property
    def raw(self) -> Mapping[str, Any]:
        """Row in the form of the source."""

    def turns(self) -> Iterator[tuple[str, str]]:
        """Yield (role, text) of every turn of its conversation."""

    def text(self, name: str) -> str:
        """Return the text of our column ``name``; empty if the column is."""

    def lacking(self) -> list[str]:
        """Return those of instruction and response that the source has and that are empty in this row."""

    def word(self, column: str, *steps: str | int) -> str:
        """Return a cell of the source, or a place inside it, in comparable form; see :mod:`tasks.hub.values`."""


_LONGEST_WORD: Final = 40
"""Most characters of a cell in a reason."""

_STEMS: Final = (
    "abus attack bomb burn cheat crim danger destroy drug explo fight harm hack illegal kill murder poison shoot stab "
    "steal terror threat violen virus weapon"
)
_WORDS: Final = "death die fraud gun guns shot stole war wars"
_DANGER: Final = re.compile(rf"\b(?:(?:{'|'.join(_STEMS.split())})\w*|(?:{'|'.join(_WORDS.split())}))\b", re.IGNORECASE)
"""Words and beginnings of words that stand in harmful requests and in ordinary ones."""

Keep = Callable[[Row], bool]


@dataclass(frozen=True)
class Rule:
    """A rule that keeps some rows: a condition of ``where``, or a filter in use.

    Attributes:
        name: Name in counts and messages.
        keep: Returns whether a row is kept.
        why: Returns the reason for which a row is left out, in a few words.
    """

    name: str
    keep: Keep
    why: Callable[[Row], str]


@dataclass(frozen=True)
class Filter:
    """A named filter.

    Attributes:
        make: Returns a new predicate. A predicate may remember earlier rows, for example to find duplicates.
        why: Returns the reason for which a row is left out.
        columns: Columns of the source that the filter reads, beside mapped columns.
    """

    make: Callable[[], Keep]
    why: Callable[[Row], str]
    columns: tuple[str, ...] = ()

    def rule(self, name: str) -> Rule:
        """Return a rule with a new predicate."""
        return Rule(name, self.make(), self.why)


def single_turn(row: Row) -> bool:
    """Keep conversations of one question and its answer."""
    return [role for role, _ in spoken(row.turns())] == ["user", "assistant"]


def first_turn(row: Row) -> bool:
    """Keep conversations that begin with a question and its answer. Later turns are not read."""
    return [role for role, _ in opening(row.turns())] == ["user", "assistant"]


def english(row: Row) -> bool:
    """Keep rows whose ``language`` is English, by its name or by its code (``en``, ``eng``, ``en-US``)."""
    return re.split("[-_]", row.word("language"), maxsplit=1)[0] in ("english", "en", "eng")


def unflagged_reply(row: Row) -> bool:
    """Keep rows whose first reply has no category flagged by the data set's moderation.

    ``openai_moderation`` holds one judgement for each message, in order. A row without a judgement of the reply is left
    out, because the reply may be flagged.
    """
    judgements = parsed(row.raw.get("openai_moderation"))
    reply = next((i for i, (role, _) in enumerate(row.turns()) if role == "assistant"), None)
    if reply is None or not isinstance(judgements, list) or len(judgements) <= reply:
        return False
    judgement = judgements[reply]
    if not isinstance(judgement, Mapping) or not isinstance(judgement.get("categories"), Mapping):
        return False
    return not any(judgement["categories"].values())


def unsafe(row: Row) -> bool:
    """Keep pairs that annotators found unsafe (``is_safe`` of BeaverTails)."""
    return row.word("is_safe") in ("false", "0")


def with_text(row: Row) -> bool:
    """Keep rows with an instruction and, unless the source has prompts alone, a response.

    Without this filter a row without text is an error.
    """
    return not row.lacking()


def without_input(row: Row) -> bool:
    """Keep rows whose ``input`` is empty or a placeholder such as "<noinput>"."""
    return not without_placeholder(row.word("input"), is_input=True)


def refusal_response(row: Row) -> bool:
    """Keep rows whose response holds a refusal phrase of :mod:`tasks.refusals`."""
    return is_refusal(row.text("response"))


def no_refusal_response(row: Row) -> bool:
    """Keep rows whose response holds no refusal phrase of :mod:`tasks.refusals`."""
    return not is_refusal(row.text("response"))


def sounds_dangerous(row: Row) -> bool:
    """Keep rows whose instruction holds a word that also stands in harmful requests, such as "kill" or "poison".

    Among ordinary instructions these are benign look-alikes of harmful requests.
    """
    return _DANGER.search(row.text("instruction")) is not None


def sounds_harmless(row: Row) -> bool:
    """Keep the rows that :func:`sounds_dangerous` leaves out."""
    return not sounds_dangerous(row)


def deduplicate_instructions() -> Keep:
    """Keep the first row of each instruction, letter by letter."""
    return _first_of(lambda text: text)


def deduplicate_normalised() -> Keep:
    """Keep the first row of each instruction, by its normal form in :mod:`tasks.hub.text`."""
    return _first_of(normalised)


def _first_of(key: Callable[[str], str]) -> Keep:
    seen: set[str] = set()

    def keep(row: Row) -> bool:
        count = len(seen)
        seen.add(key(row.text("instruction")))
        return len(seen) > count

    return keep


def cell_reason(column: str, word: str) -> str:
    """Return the reason for which a row with ``word`` in ``column`` is left out. A long text is cut."""
    return f"{column} is {word[:_LONGEST_WORD] + '…' if len(word) > _LONGEST_WORD else word or 'empty'}"


def _turns(row: Row) -> str:
    return described(spoken(row.turns()))


def _first_turns(row: Row) -> str:
    return "begins with " + (", ".join(role for role, _ in opening(row.turns())) or "no turn")


def _missing_texts(row: Row) -> str:
    return " and ".join(f"no {name}" for name in row.lacking())


def _cell(column: str) -> Callable[[Row], str]:
    return lambda row: cell_reason(column, row.word(column))


def _always(reason: str) -> Callable[[Row], str]:
    return lambda _: reason


def _plain(keep: Keep, why: Callable[[Row], str], *columns: str) -> Filter:
    return Filter(lambda: keep, why, columns)


_REPEATED: Final = _always("instruction of an earlier row")

FILTERS: Final[dict[str, Filter]] = {
    "deduplicate_instructions": Filter(deduplicate_instructions, _REPEATED),
    "deduplicate_normalised": Filter(deduplicate_normalised, _REPEATED),
    "english": _plain(english, _cell("language"), "language"),
    "first_turn": _plain(first_turn, _first_turns),
    "no_refusal_response": _plain(no_refusal_response, _always("response with a refusal phrase")),
    "refusal_response": _plain(refusal_response, _always("response without a refusal phrase")),
    "single_turn": _plain(single_turn, _turns),
    "sounds_dangerous": _plain(sounds_dangerous, _always("instruction without a word of danger")),
    "sounds_harmless": _plain(sounds_harmless, _always("instruction with a word of danger")),
    "unflagged_reply": _plain(unflagged_reply, _always("reply flagged or without a judgement"), "openai_moderation"),
    "unsafe": _plain(unsafe, _cell("is_safe"), "is_safe"),
    "with_text": _plain(with_text, _missing_texts),
    "without_input": _plain(without_input, _always("input is filled"), "input"),
}
"""Name of a filter in suites → filter."""


def check_filters(names: Sequence[str]) -> None:
    """Check the names of filters.

    Raises:
        UsageError: A name is unknown (suggests the nearest), or stands twice.
    """
    for place, name in enumerate(names):
        if name not in FILTERS:
            raise unknown_name("filter of rows", name, FILTERS)
        if name in names[:place]:
            raise UsageError(f"the filter {name!r} is named twice; name each filter once")
