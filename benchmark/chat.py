"""One chat format for training, generation and judging, taken from the tokenizer's own chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from benchmark.errors import FedSafetyError, UsageError
from benchmark.keys import content_key
from benchmark.stacked import TokenRow
from tasks.base import Example

_FAR = 4
"""How many times the model's length a text may have; what is far longer would take memory without end."""


class ChatFormat:
    """Turns instructions and examples into token ids.

    Args:
        model_path: Folder of a checkpoint whose tokenizer has a chat template, a pad and an end-of-sequence token.

    Raises:
        UsageError: One of these is missing.
    """

    def __init__(self, model_path: Path) -> None:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(model_path, local_files_only=True)
        for what, value in (
            ("chat template", tokenizer.chat_template),
            ("pad token", tokenizer.pad_token_id),
            ("end-of-sequence token", tokenizer.eos_token_id),
        ):
            if value is None:
                raise UsageError(f"the tokenizer in {model_path} has no {what}; add one to its tokenizer_config.json")
        self.tokenizer = tokenizer
        self.pad_id: int = tokenizer.pad_token_id
        self.eos_id: int = tokenizer.eos_token_id
        self.max_length: int = AutoConfig.from_pretrained(model_path, local_files_only=True).max_position_embeddings
        self.digest = content_key([tokenizer.chat_template, sorted(tokenizer.get_vocab().items())])
        # Rows repeat between clients, rounds and cells; rendering a template costs far more than a look-up.
        self.prompt_ids = lru_cache(maxsize=200_000)(self._prompt_ids)
        self.row = lru_cache(maxsize=200_000)(self._row)

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
            )
        )

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the ids of a text as it stands; special tokens come from the template alone."""
        return tuple(self.tokenizer.encode(text, add_special_tokens=False))

    def decode(self, token_ids: list[int] | tuple[int, ...]) -> str:
        """Return the text of generated ids without special tokens."""
        return str(self.tokenizer.decode(list(token_ids), skip_special_tokens=True)).strip()

    def token_id(self, word: str) -> int:
        """Return the id of the first token of ``word``."""
        ids: list[int] = self.tokenizer.encode(word, add_special_tokens=False)
        return ids[0]

    def _prompt_ids(self, instruction: str) -> tuple[int, ...]:
        return self._bounded(self.encode(self.render([{"role": "user", "content": instruction}])))

    def _row(self, example: Example) -> TokenRow:
        prompt = self.prompt_ids(example.instruction)
        response = self.encode(example.response)
        return TokenRow(self._bounded((*prompt, *response, self.eos_id)), len(prompt))

    def _bounded(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        if len(ids) > _FAR * self.max_length:
            raise FedSafetyError(
                f"a text of {len(ids)} tokens is far longer than the {self.max_length} that the model takes; shorten it"
            )
        return ids
