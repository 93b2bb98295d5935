"""Sizes of decoders and of their parts in memory: weights, keys and values, merged adapters.

The code that runs models and the code that predicts their cost both read the formulas and limits of this module.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from benchmark.errors import UsageError
from benchmark.suites.settings import LoraSettings
from tasks.model_source import ModelShape

GIB = 1 << 30

Reads = Literal["block", "attention", "feed", "inner"]
"""Input of a linear layer: the block's input, attention's output, the feed-forward block's input or its inside."""

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of a number in each format."""

ACTIVATION_SHARE = 0.8
"""Share of a GPU's free memory for the activations of a training pass if the suite sets no budget. The rest is for
memory that the estimate leaves out."""

CPU_CACHE_BYTES = 8 * GIB
"""Largest key-value cache of vLLM on a processor."""

SAMPLED_BATCH = 256
"""Most sequences that are sampled at once during a run."""

SAMPLED_CACHE_BYTES = 8 * GIB
"""Size of the key-value cache of such a batch. It is the same on every machine, because the rows of a batch may share
one random stream, so that the division into batches decides their draws."""

PROCESS_BYTES = 640 << 20
"""Bytes of a training process on a processor before it opens a model: Python and its libraries."""

HEAP_SHARE = 1.35
"""Bytes of a processor's heap for each byte of tensors at the peak of a training step. Blocks of many sizes are freed
and taken again, and leave holes. With glibc in bfloat16 and 6 to 30 layers, 1.2 to 1.5 were measured."""

ATTENTION_BLOCK = 128
"""Queries of a block of lean attention; see :mod:`benchmark.training.attention`."""

ATTENTION_SCORES = 1 << 21
"""Most scores of such a block in all its rows and heads: they stay in a processor's cache."""

_MERGED_AT_MOST, _MERGED_TOKENS = 65_536, 32
"""Condition for merging a client's weights: most elements of the layer, and least tokens of the client."""


@dataclass(frozen=True)
class Precision:
    """Number format of a model's weights and of the products with them."""

    dtype: str
    quantization: str = ""

    def __str__(self) -> str:
        return f"{self.dtype}, linear layers in {self.quantization}" if self.quantization else self.dtype


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
            UsageError: A target matches no layer.
        """
        if lora.targets == "all-linear":
            return self.linears
        names = (lora.targets,) if isinstance(lora.targets, str) else lora.targets
        available = [linear.name for linear in self.linears]
        for name in names:
            if name not in available:
                raise UsageError(
                    f"LoRA target {name!r} matches no linear layer of the model; it has {', '.join(sorted(available))}"
                )
        return tuple(linear for linear in self.linears if linear.name in names)

    def adapter_parameters(self, lora: LoraSettings) -> int:
        """Return the elements of one adapter."""
        return self.layers * sum(lora.rank * (x.inputs + x.outputs) for x in self.adapted(lora))

    def cache_bytes(self, dtype: str) -> int:
        """Return the bytes of one token's keys and values."""
        return cache_bytes(self.layers, self.kv_heads, self.head_dim, BYTES[dtype])

    def linear_bytes(self, dtype: str) -> int:
        """Return the bytes of the linear layers' weights, which an engine that merges adapters holds twice."""
        return self.linear_parameters * BYTES[dtype]

    def weight_bytes(self, dtype: str, quantization: str = "") -> int:
        """Return the bytes of the loaded weights.

        Quantised linear layers keep one float32 scale for each output row (8 bit) or 64 elements (4 bit). Embeddings,
        norms and the head stay in ``dtype``.
        """
        size = BYTES[dtype]
        rest = (self.parameters - self.linear_parameters) * size
        if not quantization:
            return self.linear_bytes(dtype) + rest
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


def attention_sizes(config: Any) -> tuple[int, int]:
    """Return the key-value heads and the width of a head from a text model's configuration."""
    heads = int(config.num_attention_heads)
    kv_heads = int(getattr(config, "num_key_value_heads", None) or heads)
    return kv_heads, int(getattr(config, "head_dim", None) or config.hidden_size // heads)


def cache_bytes(layers: int, kv_heads: int, head_dim: int, itemsize: int) -> int:
    """Return the bytes that one token's keys and values take in all layers."""
    return 2 * layers * kv_heads * head_dim * itemsize


def config_cache_bytes(config: Any, itemsize: int) -> int:
    """Return :func:`cache_bytes` of the text model in a Hugging Face configuration."""
    text = config.get_text_config()
    return cache_bytes(int(text.num_hidden_layers), *attention_sizes(text), itemsize)


def merging_is_cheaper(elements: int, tokens: int, itemsize: int) -> bool:
    """Return whether forming a client's merged weight costs less than two thin products over its tokens.

    Merging adds the weight's own gradient (tokens · in · out) but halves the number of operations, which decides the
    cost of small layers. For large layers it would also cost a copy of the weight per client. In half precision a
    merged weight would round small updates away.

    Args:
        elements: Elements of the layer's weight.
        tokens: Tokens of one client.
        itemsize: Bytes of a number.
    """
    return elements <= _MERGED_AT_MOST and tokens >= _MERGED_TOKENS and itemsize >= 4


def scored_share(tokens: int) -> float:
    """Return the share of all pairs of a row's tokens that attention in blocks computes; a causal mask leaves half."""
    ends = [*range(ATTENTION_BLOCK, tokens, ATTENTION_BLOCK), tokens]
    starts = [0, *ends[:-1]]
    pairs: int = sum((end - start) * end for start, end in zip(starts, ends, strict=True))
    return pairs / (tokens * tokens)


def trains_lean(dtype: str, device: str, quantization: str = "") -> bool:
    """Return whether a model is trained with lean passes; see :mod:`benchmark.training.lean`.

    They suit a processor's products in half precision. Results in float32 stay the same, bit for bit, because float32
    is trained without them.

    Args:
        dtype: Number format of the weights.
        device: Kind of the device, as PyTorch names it.
        quantization: Format of quantised linear layers, or empty.
    """
    return dtype == "bfloat16" and device == "cpu" and not quantization


def gib(count: float) -> str:
    """Return a number of bytes as text, for example ``1.5 GiB`` or ``20.0 MiB``."""
    return f"{count / GIB:.1f} GiB" if count >= GIB / 10 else f"{count / (1 << 20):.1f} MiB"
