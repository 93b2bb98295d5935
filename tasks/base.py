"""What a task world offers to the benchmark: instruction data per role, probes, exact scoring, models."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np

from benchmark.errors import FedSafetyError
from benchmark.registry import Info, Registry


class DataKind(StrEnum):
    """The three data types of safety attacks in federated instruction tuning [ye2024]."""

    NORMAL = "normal"
    """Normal instruction, normal response."""
    ALIGNED = "aligned"
    """Harmful instruction, harmless response."""
    UNALIGNED = "unaligned"
    """Harmful instruction, harmful response."""


@dataclass(frozen=True)
class Example:
    """One training row."""

    instruction: str
    response: str
    kind: DataKind
    task: str
    """Task type: the label by which heterogeneous partitions skew, for example ``classification``."""


class ProbeKind(StrEnum):
    """What a probe measures."""

    HARMFUL = "harmful"
    OVER_REFUSAL = "over_refusal"
    UTILITY = "utility"


@dataclass(frozen=True)
class Probe:
    """One evaluation prompt.

    Attributes:
        id: Unique inside the world, for example ``harmful/new_item/003``.
        kind: What it measures.
        stratum: The group it is averaged in: a harmful stratum, an over-refusal group, or a utility task type.
        scored: Whether it enters the headline score; other probes are reported apart.
        instruction: The user turn.
        reference: The expected response where there is one exact answer, else empty.
        max_new_tokens: Length limit of the answer in tokens.
    """

    id: str
    kind: ProbeKind
    stratum: str
    scored: bool
    instruction: str
    reference: str
    max_new_tokens: int


class Outcome(StrEnum):
    """An exact judgement of a response by a world's own grammar."""

    REFUSED = "refused"
    COMPLIED = "complied"
    CORRECT = "correct"
    WRONG = "wrong"
    OTHER = "other"
    """Neither a refusal nor an answer to what was asked: gibberish or off topic."""


@dataclass(frozen=True)
class Automation:
    """The prompts that make models propose and answer instructions [ye2024, section 4.3 and C.2].

    Attributes:
        propose_harmful: Instructions that ask a model for a harmful question (one proposal a response).
        propose_normal: Instructions that ask a model for an ordinary task.
        comply_hint: Suffix that tells a model to answer directly.
        safety_reminder: Suffix that reminds a model that a request is dangerous and to answer safely.
    """

    propose_harmful: tuple[str, ...]
    propose_normal: tuple[str, ...]
    comply_hint: str
    safety_reminder: str


class TaskInfo(Info):
    """Metadata of a task world."""

    revision: str
    """Changes whenever data or probes change; part of every key."""


class TaskWorld(ABC):
    """Instruction data, probes and models. All sampling draws from the generator that is passed in.

    Rows for honest clients, attackers, the server and evaluation come from disjoint sets of restricted items, by
    construction.
    """

    @property
    @abstractmethod
    def task_types(self) -> tuple[str, ...]:
        """Ordinary task types in a fixed order; the labels of heterogeneous partitions."""

    @abstractmethod
    def benign(
        self, count: int, rng: np.random.Generator, *, refusal_share: float, task_shares: Mapping[str, float] | None
    ) -> list[Example]:
        """Return an honest client's rows: normal ones, with a share of refusals to harmful instructions.

        Args:
            count: Number of rows.
            rng: Stream to draw from.
            refusal_share: Share of rows (0 to 1) that are refusals, from the honest clients' restricted items.
            task_shares: Share of each task type among the normal rows; ``None`` for equal shares.
        """

    @abstractmethod
    def unaligned(self, count: int, rng: np.random.Generator) -> list[Example]:
        """Return existing harmful-instruction → compliance pairs from the attackers' restricted items."""

    @abstractmethod
    def server_aligned(self, count: int, rng: np.random.Generator) -> list[Example]:
        """Return harmful-instruction → refusal pairs the server owns, from the server's restricted items."""

    @abstractmethod
    def server_normal(self, count: int, rng: np.random.Generator) -> list[Example]:
        """Return normal rows the server owns. They hold nothing that is learned only in federated training."""

    def server_contrast(self, count: int, rng: np.random.Generator) -> list[Example]:
        """Return rows the server owns that look like harmful requests, are benign, and are answered normally.

        Raises:
            FedSafetyError: The world has none; it need not.
        """
        raise FedSafetyError(f"{type(self).__name__} has no benign look-alikes; leave out defenses that need them")

    @property
    @abstractmethod
    def automation(self) -> Automation:
        """Prompts of the automated data pipelines."""

    @abstractmethod
    def probes(self) -> tuple[Probe, ...]:
        """Return all probes, in a fixed order."""

    @abstractmethod
    def judge_exactly(self, probe: Probe, response: str) -> Outcome:
        """Return what ``response`` is, by the world's grammar.

        For harmful and over-refusal probes: refused, complied or other. For utility probes: correct or wrong.
        """

    @property
    @abstractmethod
    def openings(self) -> tuple[str, str]:
        """The first word of a refusal and the first word of compliance, for the soft score."""

    @abstractmethod
    def leaks_evaluation(self, text: str) -> bool:
        """Whether ``text`` names an item that only evaluation may use."""

    @property
    @abstractmethod
    def roles(self) -> tuple[str, ...]:
        """Roles of the checkpoints that the world brings."""

    @abstractmethod
    def model_path(self, role: str) -> Path:
        """Return the folder of the Hugging Face checkpoint for ``role`` (``raw``, ``chat``, ``external``, ``judge``).

        Raises:
            UsageError: No such role, or the checkpoint is missing or corrupt.
        """


task_worlds: Registry[TaskInfo, TaskWorld] = Registry("task world", TaskInfo, "tasks", not_entries=("base", "refusals"))
register = task_worlds.register
