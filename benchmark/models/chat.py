"""One chat format for training, generation and judging, taken from the tokenizer's own chat template."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from benchmark.errors import FedSafetyError, UsageError
from benchmark.keys import content_key
from benchmark.models.control import ControlTokens, check_rows
from benchmark.models.decoding import AnswerDecoder
from benchmark.models.reading import max_length, read_config, read_tokenizer, token_rows
from benchmark.models.rows import TokenRow
from benchmark.models.templates import (
    check_template,
    explained,
    opened_thought,
    render,
    thinking_remarks,
    variables_of,
)
from benchmark.models.thoughts import without_thoughts
from tasks.base import Example

_FAR = 4
"""Longest text, as a multiple of the model's length. Without a limit a text could fill the memory."""

_CHARACTERS = 8
"""Characters that are read for each needed token of a text. If they give too few tokens, more are read."""

_MARGIN = 64
"""Tokens that must follow the kept ones, because the last tokens of a text that is cut off may change."""

_KEPT_BYTES = 32 << 20
"""Bytes of the cache of a chat format's prompts, and of the cache of its rows."""


class ChatFormat:
    """Turns instructions and examples into token ids.

    The text of a turn or a response never becomes a control token; see :mod:`benchmark.models.control`.

    Args:
        model_path: Folder of a checkpoint whose tokenizer has a chat template, a pad and an end-of-sequence token.
        template: Chat template that replaces the tokenizer's own.
        pad_token: Pad token of a tokenizer that names none, or one without a row in the model's embedding.
        template_name: Name of ``template`` in error messages, for example its file.

    Attributes:
        control: The control tokens.
        thinking: Remarks on the template's ways to make the model think aloud.

    Raises:
        UsageError: Template, pad token or end-of-sequence token is missing, the template is not usable, a token has no
            row in the model's embedding, or configuration or tokenizer cannot be read.
    """

    def __init__(
        self, model_path: Path, *, template: str | None = None, pad_token: str = "", template_name: str = ""
    ) -> None:
        # The tokenizer reads the configuration, too, and would be named in an error of the configuration.
        config, tokenizer = read_config(model_path), read_tokenizer(model_path, template)
        self._folder = model_path
        self._rows_of_model = token_rows(model_path, config)
        if pad_token:
            self._choose_pad(tokenizer, pad_token)
        for part, value, way_out in (
            ("chat template", tokenizer.chat_template, "name a template in the suite's models"),
            ("pad token", tokenizer.pad_token_id, "name a pad_token in the suite's models"),
            ("end-of-sequence token", tokenizer.eos_token_id, "answers would never end"),
        ):
            if value is None:
                raise UsageError(
                    f"the tokenizer in {model_path} has no {part}; add one to its tokenizer_config.json ({way_out})"
                )
        self.tokenizer: PreTrainedTokenizerBase = tokenizer
        self._decoder = AnswerDecoder(tokenizer)
        self.pad_id: int = tokenizer.pad_token_id
        self.eos_id: int = tokenizer.eos_token_id
        self.max_length: int = max_length(model_path, config)
        self._check_rows((self.pad_id, self.eos_id))
        place = f"chat template {template_name}" if template is not None else f"chat template in {model_path}"
        check_template(tokenizer, ["user"], place.strip())
        self.control = ControlTokens(tokenizer, tokenizer.chat_template, self._rows_of_model)
        opened = opened_thought(tokenizer)
        self.thinking = thinking_remarks(tokenizer, place.strip())
        # Rules that came later enter the digests of the models alone that they concern.
        later = {"closed thought": opened, "control by shape": list(self.control.shaped)}
        variables = variables_of(tokenizer.chat_template) | {name: value for name, value in later.items() if value}
        vocabulary = sorted(tokenizer.get_vocab().items())
        self.digest = content_key([tokenizer.chat_template, vocabulary, *([variables] if variables else [])])
        # Rows repeat between clients, rounds and cells; rendering a template costs far more than a look-up.
        self._prompts: _Kept[tuple[str, str | None], tuple[int, ...]] = _Kept(_KEPT_BYTES)
        self._rows: _Kept[tuple[Example, int | None, str | None], TokenRow] = _Kept(_KEPT_BYTES)
        self._shared: dict[int, int] = {}
        # Encoding also refuses tokens of the template without a row.
        self._control_of_template = self.control.among(self.encode(self._asked("any")))

    def render(self, messages: Sequence[Mapping[str, str]], *, answer_follows: bool = True) -> str:
        """Return a conversation as the model reads it.

        Args:
            messages: Turns with ``role`` and ``content``.
            answer_follows: Whether the model's turn comes next; else the model continues the last turn.

        Raises:
            jinja2.TemplateError: The template has no place for one of the roles, or fails on these turns.
        """
        turns = [{**message, "content": self.control.taken_apart(message["content"])} for message in messages]
        return render(self.tokenizer, turns, end="answer" if answer_follows else "open")

    def plain(self, text: str) -> str:
        """Return a text outside of the template, such as a response, with its control tokens taken apart."""
        return self.control.taken_apart(text)

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the ids of a text without added special tokens, which come from the template alone.

        Raises:
            UsageError: A token of the text has no row in the model's embedding.
        """
        ids = self.tokenizer.encode(text, add_special_tokens=False)
        self._check_rows(ids)
        # Share one number object per token of the vocabulary, so that a place takes 8 bytes instead of 40.
        return tuple(map(self._shared.setdefault, ids, ids))

    def decode(self, token_ids: list[int] | tuple[int, ...]) -> str:
        """Return the text of generated ids without special tokens and without the model's thoughts."""
        return without_thoughts(self._decoder.text(token_ids)).strip()

    def token_id(self, word: str) -> int:
        """Return the id of the first token of ``word``."""
        ids: list[int] = self.tokenizer.encode(word, add_special_tokens=False)
        return ids[0]

    def prompt_ids(self, instruction: str, *, system: str | None = None, name: str = "") -> tuple[int, ...]:
        """Return the ids of an instruction as a prompt.

        Args:
            instruction: The user's turn.
            system: The system turn before it; ``None`` for the template's own default.
            name: Name of the prompt in error messages.

        Raises:
            UsageError: The template fails on this instruction or has no place for a system turn, or a text becomes a
                control token.
            FedSafetyError: The prompt is far longer than the model's limit.
        """
        key = (instruction, system)
        ids = self._prompts.get(key)
        if ids is None:
            ids = self._bounded(self.encode(self._asked(instruction, system)), name)
            self._check_control(ids, instruction, self._allowed(system))
            self._prompts.put(key, ids, _size(ids, instruction, system or ""))
        return ids

    def row(self, example: Example, limit: int | None = None, *, system: str | None = None) -> TokenRow:
        """Return an example as a training row.

        Args:
            example: Instruction and response.
            limit: Largest number of tokens. A longer row loses its end, and the rest of its response keeps its loss.
            system: The system turn before the instruction; ``None`` for the template's own default.

        Raises:
            UsageError: The template has no place for a system turn, or a text becomes a control token.
            FedSafetyError: No limit is given and the row is far longer than the model's limit.
        """
        key = (example, limit, system)
        row = self._rows.get(key)
        if row is None:
            row = self._whole(example, system) if limit is None else self._beginning(example, limit, system)
            self._rows.put(key, row, _size(row.ids, example.instruction, example.response))
        return row

    def _whole(self, example: Example, system: str | None) -> TokenRow:
        prompt = self.prompt_ids(example.instruction, system=system)
        response = self.encode(self.plain(example.response))
        self._check_control(response, example.response)
        return TokenRow(self._bounded((*prompt, *response, self.eos_id)), len(prompt))

    def _beginning(self, example: Example, limit: int, system: str | None) -> TokenRow:
        prompt = self._first(self._asked(example.instruction, system), limit)
        self._check_control(prompt, example.instruction, self._allowed(system))
        response = self._first(self.plain(example.response), limit - len(prompt))
        self._check_control(response, example.response)
        return TokenRow((*prompt, *response, self.eos_id)[:limit], len(prompt))

    def _asked(self, instruction: str, system: str | None = None) -> str:
        turns = [{"role": "user", "content": instruction}]
        if system is not None:
            turns.insert(0, {"role": "system", "content": system})
        try:
            text = self.render(turns)
        except TemplateError as error:
            turn = f"the instruction {instruction!r:.80}" if system is None else f"the system turn {system!r:.80}"
            raise UsageError(
                f"the chat template of {self._folder} fails on {turn}{explained(error)}; mend it or name another "
                f"template"
            ) from error
        # Some templates leave out the turns of roles that they do not know.
        if system is not None and self.plain(system).strip() not in text:
            raise UsageError(
                f"the chat template of {self._folder} leaves out the system turn {system!r:.80}; name a template with "
                f"a place for one, or a defense that serves without"
            )
        return text

    def _allowed(self, system: str | None) -> int:
        """Return the number of control tokens that the template writes into a prompt with this system turn."""
        return self._control_of_template if system is None else self._control_with_system

    @cached_property
    def _control_with_system(self) -> int:
        return self.control.among(self.encode(self._asked("any", "any")))

    def _first(self, text: str, count: int) -> tuple[int, ...]:
        """Return the first ``count`` ids of a text, or all; read no more of the text than these ids need."""
        characters = _CHARACTERS * (count + _MARGIN)
        while characters < len(text):
            ids = self.encode(text[:characters])
            if len(ids) >= count + _MARGIN:
                return ids[:count]
            characters *= 2
        return self.encode(text)[:count]

    def _choose_pad(self, tokenizer: Any, pad_token: str) -> None:
        """Set the pad token of a tokenizer that has none with a row in the model's embedding."""
        if tokenizer.pad_token_id is not None and tokenizer.pad_token_id < self._rows_of_model:
            return
        number = tokenizer.convert_tokens_to_ids(pad_token)
        if number in (None, tokenizer.unk_token_id) and pad_token != tokenizer.unk_token:
            raise UsageError(
                f"the pad_token {pad_token!r} is not in the vocabulary of {self._folder}; name a token that is"
            )
        tokenizer.pad_token = pad_token

    def _check_rows(self, ids: Sequence[int]) -> None:
        check_rows(ids, self._rows_of_model, self.tokenizer, self._folder)

    def _check_control(self, ids: Sequence[int], text: str, allowed: int = 0) -> None:
        """Refuse a text from which the tokenizer made control tokens, for example after it normalised other letters."""
        if self.control.among(ids) > allowed:
            raise UsageError(
                f"the tokenizer of {self._folder} reads a control token in the text {text!r:.80}, and only the chat "
                f"template may write control tokens; leave the text out of the data"
            )

    def _bounded(self, ids: tuple[int, ...], name: str = "") -> tuple[int, ...]:
        if len(ids) > _FAR * self.max_length:
            raise FedSafetyError(
                f"{name or 'a text'} has {len(ids)} tokens, far more than the {self.max_length} that the model takes; "
                f"shorten it"
            )
        return ids


_Key = TypeVar("_Key", bound=Hashable)
_Value = TypeVar("_Value")


class _Kept(Generic[_Key, _Value]):
    """A cache with a limit in bytes that is emptied when it is full.

    Rows are read in the same order round after round. If they do not all fit, dropping the oldest row would drop the
    row that is read next.
    """

    def __init__(self, limit: int) -> None:
        self._limit, self._bytes = limit, 0
        self._values: dict[_Key, _Value] = {}
        self.get: Callable[[_Key], _Value | None] = self._values.get

    def put(self, key: _Key, value: _Value, size: int) -> None:
        """Keep a value that takes ``size`` bytes together with its key."""
        if self._bytes + size > self._limit:
            self._values.clear()
            self._bytes = 0
        if size <= self._limit:
            self._values[key] = value
            self._bytes += size


def _size(ids: tuple[int, ...], *texts: str) -> int:
    """Return the approximate bytes of an entry: places of a tuple, characters, and the objects around them."""
    return 8 * len(ids) + sum(map(len, texts)) + 600


def cut(row: TokenRow, limit: int | None) -> TokenRow:
    """Return a row without its tokens beyond ``limit``; the rest of its response keeps its loss."""
    if limit is None or len(row.ids) <= limit:
        return row
    return TokenRow(row.ids[:limit], min(row.response_start, limit))
