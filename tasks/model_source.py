"""Source of a model that a suite or a judge names: repository, revision, number format and sizes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from benchmark.settings import Settings

Repository = Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")]
"""``owner/name`` on the Hugging Face hub."""


class ModelShape(Settings):
    """Sizes of a Llama-like decoder, for predictions where its configuration is not at hand."""

    layers: int = Field(ge=1)
    """Decoder blocks."""
    hidden: int = Field(ge=1)
    """Width of the residual stream."""
    intermediate: int = Field(ge=1)
    """Width of the feed-forward block."""
    heads: int = Field(ge=1)
    """Attention heads."""
    kv_heads: int = Field(ge=1)
    """Key-value heads."""
    vocabulary: int = Field(ge=1)
    """Tokens."""
    head_dim: int | None = Field(default=None, ge=1)
    """Width of a head; by default ``hidden / heads``."""
    tied_embeddings: bool = False
    """Whether the output head is the embedding."""


class ModelSource(Settings):
    """A causal language model, or another model that a judge needs."""

    repository: Repository
    """Repository on the hub."""
    revision: str = Field(default="main", min_length=1)
    """Commit, tag or branch. What is not a full commit is resolved when a run starts, and the commit is recorded."""
    template: str = ""
    """Chat template in the place of the tokenizer's own: the name of a bundled one (``alpaca``), or the path of a
    ``.jinja`` file."""
    pad_token: str = ""
    """Token that fills short rows, where the tokenizer names none."""
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    """Number format of weights and activations."""
    quantization: Literal["", "8bit", "4bit"] = ""
    """Format of the frozen weights, by bitsandbytes."""
    local: str = ""
    """Folder below the model root that takes the repository's place; by default the repository's name."""
    shape: ModelShape | None = None
    """Sizes, for predictions before it is downloaded."""
    gated: bool = False
    """Whether the hub asks for consent first."""
    licence: str = ""
    """For the reader."""
