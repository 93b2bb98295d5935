"""Sizes of a model from its configuration or from its suite, without its weights."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache

from benchmark.errors import InputsMissingError, UsageError
from benchmark.models.loading import check_complete
from benchmark.models.lora import target_layers
from benchmark.models.reading import empty_model, read_config, reading
from benchmark.models.sizes import Decoder, Linear, Precision, Reads, attention_sizes, decoder_of
from benchmark.suites.settings import LoraSettings
from tasks.hub.models import model_here, resolve_model
from tasks.hub.roots import model_root
from tasks.model_source import ModelSource

_EVERY = LoraSettings(rank=1, alpha=1.0)


@dataclass(frozen=True)
class Model:
    """A model by its sizes."""

    decoder: Decoder
    precision: Precision


def source_model(source: ModelSource) -> Model | None:
    """Return the sizes of a source's model, or ``None`` if neither a configuration nor the suite gives them.

    Nothing is fetched.
    """
    precision = Precision(source.dtype, source.quantization)
    folder = _configuration_folder(source)
    if folder is not None:
        return Model(read_decoder(folder), precision)
    return Model(decoder_of(source.shape), precision) if source.shape else None


def check_weights(source: ModelSource) -> None:
    """Check that the weight files of a source hold every tensor of its model, if they are on this machine.

    Raises:
        FedSafetyError: A tensor is missing, or a weight file is damaged.
    """
    folder = _configuration_folder(source)
    if folder is not None and any(folder.glob("*.safetensors")):
        check_complete(folder)


_READS: Mapping[str, Reads] = {
    **dict.fromkeys(("q_proj", "k_proj", "v_proj", "qkv_proj", "query_key_value"), "block"),
    **dict.fromkeys(("o_proj", "dense"), "attention"),
    **dict.fromkeys(("down_proj", "fc2", "dense_4h_to_h"), "inner"),
}


def read_decoder(folder: Path) -> Decoder:
    """Return the decoder of a checkpoint's configuration; no weight is loaded.

    Raises:
        UsageError: The folder holds no configuration of a causal language model with equal blocks.
    """
    config = read_config(folder)
    model = empty_model(folder, config)
    with reading(folder, "configuration"):
        return _decoder(folder, model, config.get_text_config())


def _decoder(folder: Path, model: Any, text: Any) -> Decoder:
    layers = int(text.num_hidden_layers)
    linears = target_layers(model, _EVERY)
    names = [name.rpartition(".")[2] for name in linears]
    block = list(linears.values())[: len(linears) // layers]
    if len(linears) != len(block) * layers or names != names[: len(block)] * layers:
        raise UsageError(
            f"the cost of {folder} cannot be predicted, because its blocks differ from each other; take a model with "
            f"equal blocks"
        )
    kv_heads, head_dim = attention_sizes(text)
    inner = [x.in_features for name, x in zip(names, block, strict=False) if _READS.get(name) == "inner"]
    return Decoder(
        layers=layers,
        hidden=int(text.hidden_size),
        intermediate=inner[0] if inner else int(text.intermediate_size),
        heads=int(text.num_attention_heads),
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocabulary=int(text.vocab_size),
        tied=bool(text.tie_word_embeddings),
        linears=tuple(
            Linear(name, x.in_features, x.out_features, _READS.get(name, "feed"))
            for name, x in zip(names, block, strict=False)
        ),
        gated=any(name in ("gate_proj", "gate_up_proj") for name in names),
    )


def _configuration_folder(source: ModelSource) -> Path | None:
    """Return the folder of a model's configuration below the model root or in the hub's cache."""
    if model_root() is not None:
        with contextlib.suppress(InputsMissingError):
            return resolve_model(source)
        return None
    if source.package is not None:
        return model_here(source)
    path = try_to_load_from_cache(source.repository, "config.json", revision=source.revision)
    return Path(path).parent if isinstance(path, str) else None
