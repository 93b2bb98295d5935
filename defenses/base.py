"""Interface of defenses: prepare, aggregate each round, repair the final adapter, change how the model serves."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import torch
from pydantic import Field
from torch import Tensor

from benchmark.registry import Info, Registry
from benchmark.server import AlignmentSchedule as AlignmentSchedule
from benchmark.server import Objective as Objective
from benchmark.server import Server as Server
from benchmark.updates import Aggregate, RoundContext, Updates


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
    alignment_gradients: int = Field(default=0, ge=0, le=100)
    """Gradients in each step of the alignment that its hook ``prepare`` makes in the suite's place; 0 if it makes none.

    Where a suite aligns its start, such a hook runs once for all seeds, on a server with the seed of the alignment.
    """
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
