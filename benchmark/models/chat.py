"""One chat format for training, generation and judging, taken from the tokenizer's own chat template."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from benchmark.errors import FedSafetyError, UsageError
from benchmark.keys import content_key
from benchmark.models.date import DATE
from benchmark.models.rows import TokenRow
from tasks.base import Example

_FAR = 4
"""How many times the model's length a text may have; what is far longer would take memory without end."""

_CHARACTERS = 8
"""Characters of a text for each token that is wanted of it; where a tokenizer makes fewer of them, more are read."""

_MARGIN = 64
"""Tokens that must follow those that are kept: where a text is broken off, its last tokens may be others."""

_KEPT_BYTES = 32 << 20
"""Memory for the prompts of one chat format that were seen, and as much for its rows."""


class ChatFormat:
    """Turns instructions and examples into token ids.

    Args:
        model_path: Folder of a checkpoint whose tokenizer has a chat template, a pad and an end-of-sequence token.
        template: Chat template in the place of the tokenizer's own.
        pad_token: Pad token, where the tokenizer names none; one that it has is kept.

    Raises:
        UsageError: One of these is missing, or the tokenizer cannot be read.
    """

    def __init__(self, model_path: Path, *, template: str | None = None, pad_token: str = "") -> None:
        tokenizer = _tokenizer(model_path)
        if template is not None:
            tokenizer.chat_template = template
        if pad_token and tokenizer.pad_token_id is None:
            if tokenizer.convert_tokens_to_ids(pad_token) in (None, tokenizer.unk_token_id) and (
                pad_token != tokenizer.unk_token
            ):
                raise UsageError(f"the pad_token {pad_token!r} is no token of {model_path}; name one of its own")
            tokenizer.pad_token = pad_token
        for what, value, way_out in (
            ("chat template", tokenizer.chat_template, "name a template in the suite's models"),
            ("pad token", tokenizer.pad_token_id, "name a pad_token in the suite's models"),
            ("end-of-sequence token", tokenizer.eos_token_id, "answers would never end"),
        ):
            if value is None:
                raise UsageError(
                    f"the tokenizer in {model_path} has no {what}; add one to its tokenizer_config.json ({way_out})"
                )
        self.tokenizer = tokenizer
        self.pad_id: int = tokenizer.pad_token_id
        self.eos_id: int = tokenizer.eos_token_id
        self.max_length: int = AutoConfig.from_pretrained(model_path, local_files_only=True).max_position_embeddings
        self.digest = content_key([tokenizer.chat_template, sorted(tokenizer.get_vocab().items())])
        # Rows repeat between clients, rounds and cells; rendering a template costs far more than a look-up.
        self._prompts: _Kept[str, tuple[int, ...]] = _Kept(_KEPT_BYTES)
        self._rows: _Kept[tuple[Example, int | None], TokenRow] = _Kept(_KEPT_BYTES)
        self._shared: dict[int, int] = {}

    def render(self, messages: Sequence[Mapping[str, str]], *, answer_follows: bool = True) -> str:
        """Return a conversation as the model reads it.

        Args:
            messages: Turns with ``role`` and ``content``.
            answer_follows: Whether the model's turn comes next; if not, it goes on with the last one.

        Raises:
            jinja2.TemplateError: The template has no place for one of the roles.
        """
        return str(
            self.tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                tokenize=False,
                add_generation_prompt=answer_follows,
                continue_final_message=not answer_follows,
                date_string=DATE,
            )
        )

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the ids of a text as it stands; special tokens come from the template alone."""
        ids = self.tokenizer.encode(text, add_special_tokens=False)
        # One number object for each token of the vocabulary: a place then takes 8 bytes in place of 40.
        return tuple(map(self._shared.setdefault, ids, ids))

    def decode(self, token_ids: list[int] | tuple[int, ...]) -> str:
        """Return the text of generated ids without special tokens."""
        return str(self.tokenizer.decode(list(token_ids), skip_special_tokens=True)).strip()

    def token_id(self, word: str) -> int:
        """Return the id of the first token of ``word``."""
        ids: list[int] = self.tokenizer.encode(word, add_special_tokens=False)
        return ids[0]

    def prompt_ids(self, instruction: str, *, name: str = "") -> tuple[int, ...]:
        """Return the ids of an instruction as a prompt.

        Args:
            instruction: The user's turn.
            name: What a message calls it, where that is known.

        Raises:
            FedSafetyError: It is far longer than what the model takes.
        """
        found = self._prompts.get(instruction)
        if found is None:
            found = self._bounded(self.encode(self._asked(instruction)), name)
            self._prompts.put(instruction, found, _size(found, instruction))
        return found

    def row(self, example: Example, limit: int | None = None) -> TokenRow:
        """Return an example as a training row.

        Args:
            example: Instruction and response.
            limit: Tokens of a row; of a longer one the end is left out, and what is left of its response trained on.

        Raises:
            FedSafetyError: There is no limit and the row is far longer than what the model takes.
        """
        key = (example, limit)
        found = self._rows.get(key)
        if found is None:
            found = self._whole(example) if limit is None else self._beginning(example, limit)
            self._rows.put(key, found, _size(found.ids, example.instruction, example.response))
        return found

    def _whole(self, example: Example) -> TokenRow:
        prompt = self.prompt_ids(example.instruction)
        return TokenRow(self._bounded((*prompt, *self.encode(example.response), self.eos_id)), len(prompt))

    def _beginning(self, example: Example, limit: int) -> TokenRow:
        prompt = self._first(self._asked(example.instruction), limit)
        response = self._first(example.response, limit - len(prompt))
        return TokenRow((*prompt, *response, self.eos_id)[:limit], len(prompt))

    def _asked(self, instruction: str) -> str:
        return self.render([{"role": "user", "content": instruction}])

    def _first(self, text: str, count: int) -> tuple[int, ...]:
        """Return the first ``count`` ids of a text, or all; no more of it is read than these need."""
        characters = _CHARACTERS * (count + _MARGIN)
        while characters < len(text):
            ids = self.encode(text[:characters])
            if len(ids) >= count + _MARGIN:
                return ids[:count]
            characters *= 2
        return self.encode(text)[:count]

    def _bounded(self, ids: tuple[int, ...], name: str = "") -> tuple[int, ...]:
        if len(ids) > _FAR * self.max_length:
            raise FedSafetyError(
                f"{name or 'a text'} has {len(ids)} tokens, far more than the {self.max_length} that the model takes; "
                f"shorten it"
            )
        return ids


def _tokenizer(model_path: Path) -> PreTrainedTokenizerBase:
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(model_path, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(f"the tokenizer in {model_path} cannot be read ({error}); restore the folder") from error
    return tokenizer


_Key = TypeVar("_Key", bound=Hashable)
_Value = TypeVar("_Value")


class _Kept(Generic[_Key, _Value]):
    """Values that were made once, until they take too much memory; then it starts anew.

    Rows are asked for in rounds. Dropping the oldest would drop, of more than fits, just what comes next.
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
    """Return about how many bytes an entry takes: places of a tuple, characters, and the objects around them."""
    return 8 * len(ids) + sum(map(len, texts)) + 600


def cut(row: TokenRow, limit: int | None) -> TokenRow:
    """Return a row without its tokens beyond ``limit``; what is left of its response is trained on."""
    if limit is None or len(row.ids) <= limit:
        return row
    return TokenRow(row.ids[:limit], min(row.response_start, limit))
