"""Chat templates: rendering with fixed variables, and checks before anything is trained."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from jinja2 import Environment, TemplateError, TemplateSyntaxError

from benchmark.errors import UsageError, first_line
from benchmark.models.control import ControlTokens
from benchmark.models.date import DATE

Messages = Sequence[Mapping[str, str]]
"""Turns with ``role`` and ``content``."""

_DAY = datetime.datetime.strptime(DATE, "%d %b %Y")

_SWITCHES: Final = {"enable_thinking": False, "thinking": False}
"""Variables with which templates switch a model's thought on, as those of Qwen 3, SmolLM 3 and Granite do."""

_RANDOM: Final = frozenset({"random", "lipsum"})
"""Names of Jinja that draw at random."""
_ADDRESS: Final = re.compile(r" at 0x[0-9a-fA-F]+")
"""Part of the text of a function or an object of Python: an address in memory."""
_SAMPLE: Final = (
    "Which of these {} words comes first in a dictionary: river, apple, window, or candle? Answer with one word, give "
    "a reason of at most twenty words, and end with the number {}.\n\n"
) + "\n".join(f"### {row}. <b>\"Käse\" & 'tea'</b> — 茶 🙂 [x](y)\\n" for row in range(200))
"""A long text with lines, marks, quotes and letters of several scripts, so that a template that cuts or changes texts
is found."""


def render(
    tokenizer: Any,
    messages: Messages,
    template: str | None = None,
    end: Literal["answer", "open", "closed"] = "answer",
) -> str:
    """Return a conversation as the model reads it. The clock and thinking are fixed.

    Args:
        tokenizer: A tokenizer of transformers.
        messages: The turns.
        template: Chat template in the place of the tokenizer's own.
        end: Whether the model's ``answer`` comes next, the last turn stays ``open`` and is continued, or is ``closed``.

    Raises:
        jinja2.TemplateError: The template has no place for one of the roles, or fails on these turns.
    """
    try:
        text = tokenizer.apply_chat_template(
            [dict(message) for message in messages],
            chat_template=template,
            tokenize=False,
            add_generation_prompt=end == "answer",
            continue_final_message=end == "open",
            date_string=DATE,
            strftime_now=_DAY.strftime,
            **_SWITCHES,
        )
    except TemplateError:
        raise
    except Exception as error:  # a template may fail in any way that Python code may
        raise TemplateError(f"{type(error).__name__}: {first_line(error)[:300]}") from error
    return str(text)


def check_template(tokenizer: Any, roles: Sequence[str], place: str, template: str | None = None) -> None:
    """Check that a template compiles, writes the text of every turn, and draws nothing at random.

    Args:
        tokenizer: A tokenizer of transformers.
        roles: Roles of the turns.
        place: Name of the template in error messages, for example ``chat template mine.jinja``.
        template: Chat template in the place of the tokenizer's own.

    Raises:
        UsageError: One of these does not hold.
    """
    source = tokenizer.chat_template if template is None else template
    if not isinstance(source, str):
        raise _unusable(place, f"is {source!r:.80}, and a text was expected")
    turns = [{"role": role, "content": _SAMPLE.format(number, number)} for number, role in enumerate(roles, start=4)]
    try:
        drawn = _RANDOM & _names(source)
        text = "" if drawn else render(tokenizer, turns, template)
    except TemplateError as error:
        raise _unusable(place, f"fails{explained(error)}") from error
    if drawn:
        raise _unusable(place, f"draws text at random ({min(drawn)}), so that prompts would change")
    if address := _ADDRESS.search(text):
        raise _unusable(place, f"writes an address in memory ({address[0].strip()}), so that prompts would change")
    lost = next((turn["role"] for turn in turns if turn["content"] not in text), None)
    if lost is not None:
        raise _unusable(
            place, f"does not write the whole text of a turn of {lost!r}, so that different texts become one prompt"
        )


def _names(source: str) -> set[str]:
    """Return the names in a template, and its quoted texts, because ``map`` takes the name of a filter as a text."""
    return {
        value.strip("'\"") for _, kind, value in Environment(autoescape=True).lex(source) if kind in ("name", "string")
    }


def _unusable(place: str, problem: str) -> UsageError:
    return UsageError(f"the {place} {problem}; mend it, or name another template in the suite's models")


def turn_end(tokenizer: Any, control: ControlTokens, template: str | None = None) -> int | None:
    """Return the control token that a template writes behind an answer, or ``None`` without one.

    Args:
        tokenizer: A tokenizer of transformers.
        control: Its control tokens.
        template: Chat template in the place of the tokenizer's own.
    """
    answer = _SAMPLE.format(5, 5)
    turns = [{"role": "user", "content": _SAMPLE.format(4, 4)}, {"role": "assistant", "content": answer}]
    try:
        _, found, behind = render(tokenizer, turns, template, end="closed").rpartition(answer)
    except TemplateError:  # a template without a place for answers
        return None
    ids: list[int] = tokenizer.encode(behind, add_special_tokens=False) if found else []
    return next((number for number in ids if number in control.ids), None)


def variables_of(template: str) -> dict[str, object]:
    """Return the fixed variables that a template reads, for its digest.

    ``date_string`` is left out, because templates got the same date before digests held variables.
    """
    values: dict[str, object] = {"strftime_now": DATE, **_SWITCHES}
    return {name: value for name, value in values.items() if re.search(rf"\b{name}\b", template)}


def explained(error: TemplateError) -> str:
    """Return line and message of a template's error as the end of a sentence."""
    line = f" in line {error.lineno}" if isinstance(error, TemplateSyntaxError) else ""
    return f"{line} ({(error.message or type(error).__name__)[:300]})"
