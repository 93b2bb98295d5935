"""Description of a base model, which both engines read from its folder before they load it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.errors import UsageError
from benchmark.models.control import ControlTokens
from benchmark.models.reading import empty_model, max_length, read_config, read_tokenizer, reading
from benchmark.models.templates import turn_end


@dataclass(frozen=True)
class Checkpoint:
    """A Hugging Face causal language model on disk.

    Attributes:
        folder: Its folder.
        config: Its parsed transformers configuration.
        linear_layers: Module path → (in features, out features) of every linear layer of the language model but the
            output head.
        end_ids: Token ids that end an answer: those of the model's configuration, the tokenizer's, which training
            puts at the end of every response, and the one that the chat template writes behind an answer.
        max_length: Longest sequence that the model supports, in tokens.
    """

    folder: Path
    config: Any
    linear_layers: dict[str, tuple[int, int]]
    end_ids: frozenset[int]
    max_length: int


def read_checkpoint(folder: Path, template: str | None = None) -> Checkpoint:
    """Return the description of the model in ``folder`` without loading the weights.

    Args:
        folder: Folder of the checkpoint.
        template: Chat template in the place of the tokenizer's own.

    Raises:
        UsageError: The folder is not a causal language model in Hugging Face format with safetensors weights, or a file
            in it is damaged.
    """
    # Imported late because the module imports PyTorch, which a listing of judges does not need.
    from benchmark.models.lora import linear_layers

    if not any(folder.glob("*.safetensors")):
        raise UsageError(f"{folder} holds no safetensors weights; give the folder of a Hugging Face checkpoint")
    config = read_config(folder)
    layers = linear_layers(empty_model(folder, config))
    sizes = {name: (layer.in_features, layer.out_features) for name, layer in layers.items()}
    return Checkpoint(folder, config, sizes, _end_ids(folder, config, template), max_length(folder, config))


def _end_ids(folder: Path, config: Any, template: str | None) -> frozenset[int]:
    """Return the ids that end an answer.

    The generation configuration overrides the model's, as in transformers. The tokenizer's end, which training uses,
    and the token that the chat template writes behind an answer are added.
    """
    tokenizer = read_tokenizer(folder, template)
    template = tokenizer.chat_template
    named = _configured_ends(folder, config)
    named.append(tokenizer.eos_token_id)
    if isinstance(template, str):
        named.append(turn_end(tokenizer, ControlTokens(tokenizer, template), template))
    ends = frozenset(number for number in named if number is not None)
    if not ends:
        raise UsageError(
            f"{folder} names no eos_token_id, so answers would never end; add it to generation_config.json"
        )
    return ends


def _configured_ends(folder: Path, config: Any) -> list[int | None]:
    """Return the ids in ``generation_config.json``, or else those in ``config.json``."""
    stored, ids = folder / "generation_config.json", None
    if stored.exists():
        with reading(folder, stored.name):
            ids = json.loads(stored.read_text(encoding="utf-8")).get("eos_token_id")
    for owner in (config, config.get_text_config()):
        ids = getattr(owner, "eos_token_id", None) if ids is None else ids
    listed: list[Any] = ids if isinstance(ids, list) else [] if ids is None else [ids]
    if any(type(number) is not int or number < 0 for number in listed):
        raise UsageError(
            f"{folder} has eos_token_id = {ids!r:.80}, and token ids were expected; mend its generation_config.json or "
            f"config.json"
        )
    return listed
