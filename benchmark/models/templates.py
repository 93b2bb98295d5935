"""Chat templates: rendering with fixed variables, and checks before anything is trained."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from jinja2 import Environment, TemplateError, TemplateSyntaxError, meta

from benchmark.errors import UsageError, first_line
from benchmark.models.control import ControlTokens
from benchmark.models.date import DATE
from benchmark.models.thoughts import closing_mark, open_thought

Messages = Sequence[Mapping[str, str]]
"""Turns with ``role`` and ``content``."""

_DAY = datetime.datetime.strptime(DATE, "%d %b %Y")

_SWITCHES: Final = {"enable_thinking": False, "thinking": False, "enable_reasoning": False, "reasoning": False}
"""Variables with which templates switch a model's thought on, as those of Qwen 3, SmolLM 3, Granite and Command A."""
_OF_THINKING: Final = re.compile(r"think|thought|reason|effort")
_OF_HISTORY: Final = re.compile(r"clear|keep|past|preserve|history|truncate|interleave")
"""Variables for the thoughts of earlier turns, of which prompts have none."""
_GENERATION: Final = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")
"""Tags of transformers around the assistant's turns."""

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

_BORDER: Final = "aZ7\u00e4\u8336\"'`?!.,;:#*<>()[]{}-_=+/|\\&%$@~^"
"""Characters at the beginning and the end of texts, so that a template that strips them is found."""


def render(
    tokenizer: Any,
    messages: Messages,
    template: str | None = None,
    end: Literal["answer", "open", "closed"] = "answer",
) -> str:
    """Return a conversation as the model reads it. The clock is fixed, and thinking is off.

    Some templates open a thought at the end of a prompt. The thought is closed at once, because judges could not tell
    it from the answer, and training rows hold answers without thoughts.

    Args:
        tokenizer: A tokenizer of transformers.
        messages: The turns.
        template: Chat template in the place of the tokenizer's own.
        end: Whether the model's ``answer`` comes next, the last turn stays ``open`` and is continued, or is ``closed``.

    Raises:
        jinja2.TemplateError: The template has no place for one of the roles, fails on these turns, or opens a thought
            that cannot be closed.
    """
    text = _written(tokenizer, messages, template, end)
    if end != "answer" or not messages:
        return text
    content = messages[-1]["content"].strip()
    return text + _closing(tokenizer, text.rpartition(content)[2] if content else text)


def opened_thought(tokenizer: Any, template: str | None = None) -> str:
    """Return the mark with which a template opens a thought at the end of prompts, or an empty text.

    Args:
        tokenizer: A tokenizer of transformers.
        template: Chat template in the place of the tokenizer's own.

    Raises:
        jinja2.TemplateError: The template fails on a user's turn.
    """
    content = _SAMPLE.format(4, 4)
    text = _written(tokenizer, [{"role": "user", "content": content}], template, "answer")
    behind = text.rpartition(content.strip())[2]
    mark = open_thought(behind)
    return behind[mark.start : mark.end].strip() if mark else ""


def thinking_remarks(tokenizer: Any, place: str, template: str | None = None) -> list[str]:
    """Return remarks on a template that opens a thought, or has switches of thinking that stay at their defaults.

    Args:
        tokenizer: A tokenizer of transformers.
        place: Name of the template at the beginning of each remark.
        template: Chat template in the place of the tokenizer's own.
    """
    source = tokenizer.chat_template if template is None else template
    if not isinstance(source, str):
        return []
    remarks = []
    try:
        opened, switches = opened_thought(tokenizer, template), thinking_switches(source)
    except TemplateError:  # other checks refuse such a template
        return []
    if opened:
        remarks.append(f"{place} opens a thought with {opened}; prompts close it, so that the model answers at once")
    if switches:
        remarks.append(
            f"{place} reads {', '.join(switches)}, which stay at the template's default; if the model thinks aloud, "
            f"answers without the end of a thought hold no answer: set them in a template of the suite"
        )
    return remarks


def thinking_switches(template: str) -> list[str]:
    """Return the variables of a template whose names concern thinking and that :func:`render` does not set, sorted.

    Raises:
        jinja2.TemplateError: The template does not compile.
    """
    environment = Environment(autoescape=True, extensions=["jinja2.ext.loopcontrols"])
    names = meta.find_undeclared_variables(environment.parse(_GENERATION.sub("", template)))
    return sorted(
        name for name in names if _OF_THINKING.search(name) and not _OF_HISTORY.search(name) and name not in _SWITCHES
    )


def _closing(tokenizer: Any, behind: str) -> str:
    """Return the text that closes a thought which a template opens behind the last turn; empty without one.

    Raises:
        jinja2.TemplateError: The thought cannot be closed.
    """
    mark = open_thought(behind)
    if mark is None:
        return ""
    opening = behind[mark.start : mark.end].strip()
    closing = closing_mark(opening)
    if behind[mark.end :].strip() or not closing or _is_token(tokenizer, opening) > _is_token(tokenizer, closing):
        raise TemplateError(f"it opens a thought with {opening!r}, which cannot be closed")
    if not closing.startswith("</"):
        return closing
    # The layout in which templates that can switch thinking off write an empty thought.
    return ("\n" if behind.endswith("\n") else "\n\n") + f"{closing}\n\n"


def _is_token(tokenizer: Any, text: str) -> bool:
    return text in tokenizer.get_vocab()


def _written(tokenizer: Any, messages: Messages, template: str | None, end: str) -> str:
    """Return a conversation as the template writes it.

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
    if lost is None:
        lost = _cut_at_border(tokenizer, roles, template)
    if lost is not None:
        raise _unusable(
            place, f"does not write the whole text of a turn of {lost!r}, so that different texts become one prompt"
        )


def _cut_at_border(tokenizer: Any, roles: Sequence[str], template: str | None) -> str | None:
    """Return the role of a turn whose first or last character a template does not write, or ``None``.

    A template may remove blanks at the border of a text.
    """
    for sign in _BORDER:
        turns = [{"role": role, "content": f"{sign}{role}{number}{sign}"} for number, role in enumerate(roles)]
        try:
            text = render(tokenizer, turns, template)
        except TemplateError:  # a template may refuse a text, and is then named with it
            continue
        lost = next((turn["role"] for turn in turns if turn["content"] not in text), None)
        if lost is not None:
            return lost
    return None


def _names(source: str) -> set[str]:
    """Return the names in a template, and its quoted texts, because ``map`` takes the name of a filter as a text."""
    return {
        value.strip("'\"") for _, kind, value in Environment(autoescape=True).lex(source) if kind in ("name", "string")
    }


def _unusable(place: str, problem: str) -> UsageError:
    return UsageError(f"the {place} {problem}; mend it, or name another template in the suite's models")


def turn_end(tokenizer: Any, control: ControlTokens, template: str | None = None) -> int | None:
    """Return the control token that a template writes behind an answer, or ``None`` without one.

    Some templates end a turn only where another turn follows.

    Args:
        tokenizer: A tokenizer of transformers.
        control: Its control tokens.
        template: Chat template in the place of the tokenizer's own.
    """
    answer, question = _SAMPLE.format(5, 5), _SAMPLE.format(6, 6)
    turns = [{"role": "user", "content": _SAMPLE.format(4, 4)}, {"role": "assistant", "content": answer}]
    for conversation in (turns, [*turns, {"role": "user", "content": question}]):
        try:
            _, found, behind = render(tokenizer, conversation, template, end="closed").rpartition(answer)
        except TemplateError:  # a template without a place for answers, or for a further question
            return None
        between = behind.partition(question)[0]
        ids: list[int] = tokenizer.encode(between, add_special_tokens=False) if found else []
        end = next((number for number in ids if control.among([number])), None)
        if end is not None:
            return end
    return None


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
