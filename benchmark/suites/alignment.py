"""Settings of a suite's alignment: how its start model learns to refuse before the federation begins."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import Field, PrivateAttr, model_validator

from benchmark.settings import Settings
from benchmark.suites.settings import Seed
from tasks.hub.settings import Identifier, Shares


class ShippedAdapter(Settings):
    """A finished alignment, as ``fedsafety align`` writes it."""

    file: str = Field(min_length=1)
    """Path of the safetensors file, relative to the folder of the suite file."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """SHA-256 of the file."""

    _folder: Path = PrivateAttr(default=Path())

    def model_post_init(self, context: Any, /) -> None:
        """Keep the folder of the suite file, which the reader of the file gives as context."""
        self._folder = (context or {}).get("folder", Path())

    @property
    def path(self) -> Path:
        """Path of the file on this machine."""
        return self._folder / self.file


class Expectations(Settings):
    """Bounds on the refusals of the aligned start, measured with the keyword rule before the federation.

    The prompts are development prompts, or probes of the suite.
    """

    harmful: Identifier
    """Development prompts that are harmful, or a set of harmful probes."""
    least_refused: float = Field(ge=0, le=1)
    """Least share of its prompts that the start refuses."""
    benign: Identifier
    """Development prompts that are harmless and sound dangerous, or a set of over-refusal probes."""
    most_refused: float = Field(ge=0, le=1)
    """Largest share of its prompts that the start refuses."""
    prompts: int = Field(default=64, ge=1)
    """Most prompts of each set, spread evenly over it."""
    max_new_tokens: int = Field(default=48, ge=1)
    """Length limit of an answer; a refusal begins with the answer."""


class AlignmentSettings(Settings):
    """Supervised tuning of the start model on refusals and ordinary answers; the result is an adapter.

    The adapter has the shape of the suite's other adapters. The federation starts from it, and the base weights stay as
    they are. Source of the stage: Qi et al. 2024 and the literature on harmful fine-tuning, see docs/protocol.md.
    """

    start: Identifier
    """Role of the model that is aligned. Scenarios that start from another role start unaligned."""
    data: Shares
    """Pool → share of the rows."""
    rows: int = Field(ge=1)
    """Training rows."""
    steps: int = Field(ge=1)
    """Optimizer steps."""
    batch_size: int = Field(ge=1)
    """Rows a step."""
    learning_rate: float = Field(gt=0)
    """Initial rate, cosine over the steps."""
    learning_rate_floor: float = Field(default=0.0, ge=0)
    """Rate the cosine ends at."""
    weight_decay: float = Field(default=0.0, ge=0)
    """AdamW's decoupled weight decay."""
    clip_norm: float | None = Field(default=None, gt=0)
    """Largest L2 norm of the gradient; none for no clipping."""
    max_length: int | None = Field(default=None, ge=2)
    """Most tokens of a training row; longer rows are cut at their end."""
    seed: Seed
    """Seed of rows, order and initial adapter. Run seeds do not change the alignment."""
    adapter: ShippedAdapter | None = None
    """The finished adapter; without it the first run of the suite trains the adapter."""
    expects: Expectations | None = None
    """Bounds on the start's refusals; without them nothing is measured."""

    added: ClassVar[frozenset[str]] = frozenset({"clip_norm", "max_length", "adapter", "expects"})

    @model_validator(mode="after")
    def _rate_falls(self) -> Self:
        if self.learning_rate_floor > self.learning_rate:
            raise ValueError(
                f"learning_rate_floor {self.learning_rate_floor} exceeds learning_rate {self.learning_rate}, but the "
                f"rate falls over the steps; lower the floor"
            )
        return self

    @property
    def identity(self) -> dict[str, Any]:
        """The part of training keys that stands for the aligned start, beside the model, ``lora`` and the data.

        A shipped adapter enters by its digest. An adapter that a user makes again has the same key if its bytes are the
        same. The settings enter, too, because methods can align further by them.
        """
        return {"settings": self.recipe, "adapter": self.adapter.sha256 if self.adapter else ""}

    @property
    def recipe(self) -> dict[str, Any]:
        """The settings that decide what the training yields."""
        return self.model_dump(mode="json", exclude={"adapter", "expects"})
