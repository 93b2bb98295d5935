"""The sizes of a decoder, from a suite or from a checkpoint's configuration, without its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from benchmark.errors import UsageError
from benchmark.models.lora import target_layers
from benchmark.suites.settings import LoraSettings
from tasks.hub.settings import ModelShape

Reads = Literal["block", "attention", "feed", "inner"]
"""What a linear layer reads: the block's input, attention's output, the feed-forward block's input or its inside."""

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of a number in each format."""

_EVERY = LoraSettings(rank=1, alpha=1.0)


@dataclass(frozen=True)
class Linear:
    """A linear layer of a decoder block."""

    name: str
    inputs: int
    outputs: int
    reads: Reads

    @property
    def size(self) -> int:
        """Elements of its weight."""
        return self.inputs * self.outputs


@dataclass(frozen=True)
class Decoder:
    """The sizes of a causal language model: equal blocks between an embedding and an output head."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool
    linears: tuple[Linear, ...]
    gated: bool = True

    @property
    def linear_parameters(self) -> int:
        """Elements of all blocks' linear layers."""
        return self.layers * sum(linear.size for linear in self.linears)

    @property
    def embedding_parameters(self) -> int:
        """Elements of embedding and head."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2)

    @property
    def parameters(self) -> int:
        """All elements, norms included and biases left out."""
        return self.linear_parameters + self.embedding_parameters + (2 * self.layers + 1) * self.hidden

    def adapted(self, lora: LoraSettings) -> tuple[Linear, ...]:
        """Return the layers of a block that carry an adapter.

        Raises:
            UsageError: A target matches none.
        """
        if lora.targets == "all-linear":
            return self.linears
        names = (lora.targets,) if isinstance(lora.targets, str) else lora.targets
        known = [linear.name for linear in self.linears]
        for name in names:
            if name not in known:
                raise UsageError(
                    f"LoRA target {name!r} matches no linear layer of the model; it has {', '.join(sorted(known))}"
                )
        return tuple(linear for linear in self.linears if linear.name in names)

    def adapter_parameters(self, lora: LoraSettings) -> int:
        """Return the elements of one adapter."""
        return self.layers * sum(lora.rank * (x.inputs + x.outputs) for x in self.adapted(lora))

    def weight_bytes(self, dtype: str, quantization: str = "") -> int:
        """Return the bytes of the loaded weights.

        Quantised linear layers keep one float32 scale for each output row (8 bit) or 64 elements (4 bit); embeddings,
        norms and the head stay in ``dtype``.
        """
        size = BYTES[dtype]
        rest = (self.parameters - self.linear_parameters) * size
        if not quantization:
            return self.linear_parameters * size + rest
        if quantization == "4bit":
            return self.linear_parameters // 2 + self.linear_parameters // 64 * 4 + rest
        rows = self.layers * sum(linear.outputs for linear in self.linears)
        return self.linear_parameters + rows * 4 + rest


def decoder_of(shape: ModelShape) -> Decoder:
    """Return the Llama-like decoder of a shape."""
    head = shape.head_dim or shape.hidden // shape.heads
    h, m, q, kv = shape.hidden, shape.intermediate, shape.heads * head, shape.kv_heads * head
    return Decoder(
        layers=shape.layers,
        hidden=h,
        intermediate=m,
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        head_dim=head,
        vocabulary=shape.vocabulary,
        tied=shape.tied_embeddings,
        linears=(
            Linear("q_proj", h, q, "block"),
            Linear("k_proj", h, kv, "block"),
            Linear("v_proj", h, kv, "block"),
            Linear("o_proj", q, h, "attention"),
            Linear("gate_proj", h, m, "feed"),
            Linear("up_proj", h, m, "feed"),
            Linear("down_proj", m, h, "inner"),
        ),
    )


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
    try:
        config = AutoConfig.from_pretrained(folder)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{folder} holds no configuration of a causal language model: {error}; give the folder of a checkpoint"
        ) from error
    text: Any = config.get_text_config()
    layers = int(text.num_hidden_layers)
    found = target_layers(model, _EVERY)
    names = [name.rpartition(".")[2] for name in found]
    block = list(found.values())[: len(found) // layers]
    if len(found) != len(block) * layers or names != names[: len(block)] * layers:
        raise UsageError(f"the blocks of {folder} differ from each other; its cost cannot be predicted")
    heads = int(text.num_attention_heads)
    inner = [x.in_features for name, x in zip(names, block, strict=False) if _READS.get(name) == "inner"]
    return Decoder(
        layers=layers,
        hidden=int(text.hidden_size),
        intermediate=inner[0] if inner else int(text.intermediate_size),
        heads=heads,
        kv_heads=int(getattr(text, "num_key_value_heads", None) or heads),
        head_dim=int(getattr(text, "head_dim", None) or text.hidden_size // heads),
        vocabulary=int(text.vocab_size),
        tied=bool(text.tie_word_embeddings),
        linears=tuple(
            Linear(name, x.in_features, x.out_features, _READS.get(name, "feed"))
            for name, x in zip(names, block, strict=False)
        ),
        gated=any(name in ("gate_proj", "gate_up_proj") for name in names),
    )
