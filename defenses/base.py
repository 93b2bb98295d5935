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
    asks_server: bool = False
    """Whether its hook ``aggregate`` asks for the server's tools, by ``context.server``."""
    needs_alignment: bool = False
    """Whether it compares the start model with the model before its alignment, which not every suite has."""
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
        system: The system turn before it; ``None`` for the chat template's own default.
    """

    instruction: str
    answer: str | None = None
    system: str | None = None


@dataclass(frozen=True)
class Objective:
    """Loss that the server's training minimises: by default the mean cross-entropy of the responses' tokens.

    Attributes:
        ascend: Turns the sign of the cross-entropy, so that training makes the rows less likely.
        proximal: Factor c of the term c/2 · ‖w - anchor‖², which pulls the adapter w to ``anchor``; at least 0.
        anchor: Flat adapter ``[d]`` of the proximal term; ``None`` for the adapter at the first step.
        perturbation: Length of the perturbation of the layers' outputs that raises the loss most to first order
            (Huang et al. 2024, arXiv 2402.01109); the loss is taken under it. At least 0.
        token_weights: Weights of the first tokens of each response in the mean; later tokens weigh 1.
    """

    ascend: bool = False
    proximal: float = 0.0
    anchor: Tensor | None = None
    perturbation: float = 0.0
    token_weights: tuple[float, ...] = ()


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

    @property
    def scaling(self) -> float:
        """LoRA's factor s: an adapter adds s · B A to a layer's weights."""

    def weights(self, layer: str, *, aligned: bool = True) -> Tensor:
        """Return the weights of a layer before the federation.

        Args:
            layer: Name in ``layout.layers``.
            aligned: The start model's weights, or those of the model from which it was aligned.

        Returns:
            Float32 tensor ``[out, in]``.

        Raises:
            FedSafetyError: The layer is unknown, or the suite has no unaligned model.
        """

    def feature_norms(self, adapter: Tensor, examples: list[Example]) -> dict[str, Tensor]:
        """Return the L2 norms of each adapted layer's input features over all tokens of the examples.

        Returns:
            Name of the layer → float32 tensor ``[in]``.
        """

    def activations(self, adapter: Tensor, prompts: list[str], layer: str) -> Tensor:
        """Return the inputs ``[prompts, in]`` (float32) of an adapted layer at the last token of each prompt."""

    def first_token_scores(self, adapter: Tensor, prompts: list[str], openings: list[str]) -> Tensor:
        """Return the log-probabilities with which answers begin as the openings do.

        Only the first token of an opening counts, so that one pass over the prompts suffices.

        Returns:
            Float32 tensor ``[prompts, openings]`` of natural logarithms.
        """

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

    def finetune(
        self,
        adapter: Tensor,
        examples: list[Example],
        *,
        objective: Objective | None = None,
        steps: int | None = None,
        rate: float = 1.0,
        template: str = "",
    ) -> Tensor:
        """Return ``adapter`` (flat, ``[d]``) fine-tuned on ``examples`` with the suite's post-hoc settings.

        Args:
            adapter: Flat adapter before the first step.
            examples: Training rows, at least one.
            objective: The loss; by default the mean cross-entropy.
            steps: Number of steps in place of the suite's.
            rate: Factor on the suite's learning rates.
            template: Text around each instruction, which stands where ``{instruction}`` is; none by default.
        """

    def alignment_examples(self) -> list[Example]:
        """Return the rows on which the suite aligns its start model; none if it does not align it."""

    def align(self, adapter: Tensor, examples: list[Example]) -> Tensor:
        """Return ``adapter`` (flat, ``[d]``) trained on ``examples`` with the settings of the suite's alignment.

        Without an alignment in the suite, ``adapter`` comes back as it is.
        """

    def gradient(
        self, adapter: Tensor, examples: list[Example], *, objective: Objective | None = None
    ) -> tuple[Tensor, float]:
        """Return the gradient ``[d]`` of an objective on ``examples`` at ``adapter``, and the cross-entropy in nats.

        The default objective is the mean token loss.
        """

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
        """Return the adapter to serve, given the last global adapter (flat, ``[d]``).

        The served adapter may have a higher LoRA rank r2: a flat vector of ``server.layout.of_rank(r2)``.
        """
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
