"""Description of a base model, which both engines read from its folder before they load it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.errors import UsageError


@dataclass(frozen=True)
class Checkpoint:
    """A Hugging Face causal language model on disk.

    Attributes:
        folder: Its folder.
        config: Its parsed transformers configuration.
        linear_layers: Module path → (in features, out features) of every linear layer but the output head.
        end_ids: Token ids that end an answer: those of the model's configuration, and the tokenizer's, which training
            puts at the end of every response.
        max_length: Longest sequence that the model supports, in tokens.
    """

    folder: Path
    config: Any
    linear_layers: dict[str, tuple[int, int]]
    end_ids: frozenset[int]
    max_length: int


def read_checkpoint(folder: Path) -> Checkpoint:
    """Return the description of the model in ``folder`` without loading the weights.

    Raises:
        UsageError: The folder is not a causal language model in Hugging Face format with safetensors weights.
    """
    import torch
    import transformers
    from torch import nn

    hub: Any = transformers
    if not any(folder.glob("*.safetensors")):
        raise UsageError(f"{folder} holds no safetensors weights; give the folder of a Hugging Face checkpoint")
    try:
        config = hub.AutoConfig.from_pretrained(folder, local_files_only=True)
        with torch.device("meta"):
            model = hub.AutoModelForCausalLM.from_config(config)
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(f"{folder} is not a causal language model that transformers can load: {error}") from error
    head = model.get_output_embeddings()
    layers = {
        name: (module.in_features, module.out_features)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head
    }
    max_length = getattr(config, "max_position_embeddings", None) or 2048
    return Checkpoint(folder, config, layers, _end_ids(folder, config), int(max_length))


def _end_ids(folder: Path, config: Any) -> frozenset[int]:
    """Return the end-of-sequence ids; the generation configuration overrides the model's, as in transformers."""
    stored = folder / "generation_config.json"
    ids = json.loads(stored.read_text(encoding="utf-8")).get("eos_token_id") if stored.exists() else None
    if ids is None:
        ids = getattr(config, "eos_token_id", None)
    named = [] if ids is None else [ids] if isinstance(ids, int) else list(ids)
    trained = _tokenizer_end(folder)
    if trained is not None:
        named.append(trained)
    if not named:
        raise UsageError(
            f"{folder} names no eos_token_id, so answers would never end; add it to generation_config.json"
        )
    return frozenset(named)


def _tokenizer_end(folder: Path) -> int | None:
    import transformers

    hub: Any = transformers
    try:
        end_id = hub.AutoTokenizer.from_pretrained(folder, local_files_only=True).eos_token_id
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(f"{folder} has no tokenizer that transformers can load: {error}") from error
    return None if end_id is None else int(end_id)
