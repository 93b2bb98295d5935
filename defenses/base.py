"""Interface of defenses: prepare, aggregate each round, repair the final adapter, change how the model serves."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import torch
from torch import Tensor

from benchmark.registry import Info, Registry
from benchmark.updates import AdapterLayout, Aggregate, RoundContext, Updates
from tasks.base import Automation, Example


class Stage(StrEnum):
    """When a defense acts."""

    PREPARE = "prepare"
    AGGREGATE = "aggregate"
    FINALIZE = "finalize"
    SERVE = "serve"


class Knowledge(StrEnum):
    """Information that a defense gets about the malicious clients."""

    NONE = "none"
    DECLARED_BOUND = "declared_bound"
    TRUTH = "truth"


class DefenseInfo(Info):
    """Metadata of a defense."""

    stages: tuple[Stage, ...]
    """When it acts."""
    knowledge: Knowledge
    """Information that it needs about the malicious clients."""
    resources: str = "none"
    """What the server must own besides the updates, in plain words."""
    ranked: bool = True
    """False for reference rows that show what a score alone would hide."""
    variant_of: str = ""
    """Set on variants that run only in scenarios that ask for them."""


@dataclass(frozen=True)
class Prompt:
    """One request to the served model.

    Attributes:
        instruction: The user turn the model will see.
        answer: Served as it stands, without asking the model, unless ``None``.
    """

    instruction: str
    answer: str | None = None


class Server(Protocol):
    """The metered tools of an honest server. The row records every use of them."""

    @property
    def layout(self) -> AdapterLayout:
        """Layout of flat adapters."""

    @property
    def automation(self) -> Automation:
        """Prompts of the automated data pipelines."""

    @property
    def examples(self) -> int:
        """How many training pairs the suite lets a post-hoc defense use."""

    @property
    def alignment_rows(self) -> int:
        """Number of rows on which the suite aligns its start model; 0 if it does not align it."""

    def start(self) -> Tensor:
        """Return the adapter that the federation starts from (flat, ``[d]``), aligned if the suite aligns it.

        A fresh adapter of a suite without an alignment has no effect on answers: its factors B are zero.
        """

    def owned_aligned(self, count: int) -> list[Example]:
        """Return harmful-instruction → refusal pairs the server owns."""

    def owned_normal(self, count: int) -> list[Example]:
        """Return normal rows the server owns."""

    def generate(self, prompts: list[str], *, adapter: Tensor | None, temperature: float) -> list[str]:
        """Return answers of the global model with ``adapter`` (flat, ``[d]``).

        ``None`` stands for the starting model, aligned if the suite aligns it. Zeros stand for the bare base model.
        """

    def generate_external(self, prompts: list[str], *, temperature: float) -> list[str]:
        """Return answers of an external aligned model."""

    def finetune(self, adapter: Tensor, examples: list[Example]) -> Tensor:
        """Return ``adapter`` (flat, ``[d]``) fine-tuned on ``examples`` with the suite's post-hoc settings."""

    def alignment_examples(self) -> list[Example]:
        """Return the rows on which the suite aligns its start model; none if it does not align it."""

    def align(self, adapter: Tensor, examples: list[Example]) -> Tensor:
        """Return ``adapter`` (flat, ``[d]``) trained on ``examples`` with the settings of the suite's alignment.

        Without an alignment in the suite, ``adapter`` comes back as it is.
        """

    def gradient(self, adapter: Tensor, examples: list[Example]) -> tuple[Tensor, float]:
        """Return the gradient ``[d]`` of the mean token loss of ``examples`` at ``adapter``, and the loss in nats."""

    def shuffle(self, examples: list[Example]) -> list[Example]:
        """Return the rows in an order drawn from the defense's own stream."""


class Defense:
    """Base of all defenses. Every hook has a default; together the defaults are plain FedAvg.

    One instance lives through ``prepare`` and all rounds of a run, so a rule may keep state between rounds.
    ``finalize`` and ``serve`` run later, each on a new instance, which has no attribute that a round set.

    Attributes:
        uses_updates: False for a reference row that ignores the updates; no client is trained for it then.
    """

    uses_updates: bool = True

    def check_shape(self, participants: int, declared_malicious: int) -> None:
        """Refuse shapes outside the rule's condition.

        Args:
            participants: Number n of updates per round.
            declared_malicious: The scenario's declared bound f.

        Raises:
            NotApplicableError: The text names the condition that fails, with the numbers.
        """

    def degenerate_as(self, participants: int, declared_malicious: int) -> str | None:
        """Return the id of a simpler defense that is the same function in this shape, or ``None``."""
        del participants, declared_malicious
        return None

    def prepare(self, server: Server) -> Tensor | None:
        """Act before round 1; return the adapter that the federation starts from, or ``None`` for the suite's own.

        A returned start is a finite float32 vector of shape ``[d]``. The default returns ``None``.
        """
        del server
        return None

    def aggregate(self, updates: Updates, context: RoundContext) -> Aggregate:
        """Return the round's aggregate; the default is the sample-weighted mean (FedAvg)."""
        weights = updates.sample_counts / updates.sample_counts.sum()
        return Aggregate(weights.to(updates.matrix.dtype) @ updates.matrix, weights)

    def finalize(self, adapter: Tensor, server: Server) -> Tensor:
        """Return the adapter to serve, given the last global adapter (flat, ``[d]``)."""
        del server
        return adapter

    def serve(self, prompt: Prompt) -> Prompt:
        """Return the request as the model shall see it, or with a fixed answer."""
        return prompt


def selection(indices: Tensor, participants: int) -> Tensor:
    """Return normalised 0/1 client weights (float64, ``[n]``) for a rule that keeps ``indices``."""
    weights = torch.zeros(participants, dtype=torch.float64)
    weights[indices] = 1.0 / len(indices)
    return weights


defenses: Registry[DefenseInfo, Defense] = Registry(
    "defense", DefenseInfo, "defenses", bridges={"byzfl": "benchmark.interop.byzfl:bridged_entry"}
)
register = defenses.register
