"""The interface of a task world: instruction data for each role, probes, exact judgements and models.

A world must define the abstract members of :class:`TaskWorld`. The other members have defaults that suit a world which
brings small models and makes its rows itself, as ``micro`` does. A world whose suite names models and data, as ``hub``
does, overrides them. The engine reads these members and never asks for a world's class.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from benchmark.errors import FedSafetyError
from benchmark.registry import Info, Registry

if TYPE_CHECKING:
    from tasks.model_source import ModelSource


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
    PERPLEXITY = "perplexity"
    """The likelihood of the probe's reference. The model does not answer such a probe, and no judge receives it."""


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
        max_new_tokens: Length limit of the answer in tokens, and of each continuation whose likelihood is measured.
        target: The beginning of a compliant answer to a harmful prompt, for the safety margin; empty where there is
            none.
        publish: What published rows hold: the prompt and its answers (``text``), its answers (``answers``), or digests
            alone (``hash``).
    """

    id: str
    kind: ProbeKind
    stratum: str
    scored: bool
    instruction: str
    reference: str
    max_new_tokens: int
    target: str = ""
    publish: str = "text"


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


@dataclass(frozen=True)
class Checkpoint:
    """The model of a role: its number format and chat settings, and its files on demand.

    The fields are readable where the model's files are not. :attr:`path` and :attr:`identity` find or read files.

    Attributes:
        locate: Returns the folder of the Hugging Face checkpoint, for :attr:`path`.
        identify: Returns what pins the model, for :attr:`identity`; ``None`` for the SHA-256 of its weights.
        dtype: Number format of weights and activations: ``float32``, ``bfloat16`` or ``float16``.
        quantization: Format of the frozen weights, ``8bit`` or ``4bit``; empty for no quantisation.
        template: Chat template that replaces the tokenizer's own, or ``None``.
        pad_token: Pad token where the tokenizer names none.
    """

    locate: Callable[[], Path]
    identify: Callable[[], str] | None = None
    dtype: str = "float32"
    quantization: str = ""
    template: str | None = None
    pad_token: str = ""

    @cached_property
    def path(self) -> Path:
        """Folder of the checkpoint, downloaded if necessary.

        Raises:
            UsageError: The checkpoint is missing or corrupt.
            InputsMissingError: The checkpoint comes from outside and cannot be obtained.
        """
        return self.locate()

    @cached_property
    def identity(self) -> str:
        """Identity of the model in keys and rows, for example the SHA-256 of its weights.

        Raises:
            InputsMissingError: The checkpoint comes from outside and its revision cannot be resolved.
        """
        if self.identify is not None:
            return self.identify()
        # Imported late because sandboxed methods import this module and have no use for keys.
        from benchmark.keys import file_digest

        return file_digest(self.path / "model.safetensors")


@dataclass(frozen=True)
class Input:
    """A model, data set or aligned start that a run read.

    Attributes:
        kind: ``model``, ``dataset`` or ``alignment``.
        name: Role of the model, also of the aligned one; ``pool/<pool>`` or ``probes/<set>``.
        source: Repository, with configuration and split of a data set.
        requested: Revision as the suite names it.
        resolved: Commit of the hub, or ``sha256:…`` of local files.
        rows: Number of rows used; 0 for models.
        detail: How rows were chosen and counted, or how weights are held.
        repeated: Number of repetitions among the rows of a role that requested more rows than the pool holds.
    """

    kind: Literal["model", "dataset", "alignment"]
    name: str
    source: str
    requested: str
    resolved: str
    rows: int
    detail: str
    repeated: int = 0

    @property
    def remark(self) -> str:
        """Remark for readers of results; empty without repetitions."""
        return (
            f"{self.name} has {self.rows} rows, and {self.rows + self.repeated} were asked for: {self.repeated} repeat"
            if self.repeated
            else ""
        )


ClientStreams = Callable[..., np.random.Generator]
"""Random streams of client data: ``streams()`` returns the stream that all clients share, and ``streams(client)`` the
stream of one client. Two calls with the same argument return two generators in the same state."""


class TaskInfo(Info):
    """Metadata of a task world."""

    revision: str
    """Changes whenever data or probes change; part of every key."""


class TaskWorld(ABC):
    """Instruction data, probes and models. All sampling draws from the generator that is passed in.

    Rows for honest clients, attackers, the server and evaluation come from disjoint sets of restricted items, by
    construction.

    Attributes:
        models_are_large: Whether memory limits the number of open models. The engine then predicts memory and time
            before a run, opens a model only when a method needs it, and closes it afterwards.
        draws_prompt_by_prompt: Whether sampling seeds each prompt separately, so that an answer does not depend on the
            batch. Worlds with published rows keep the value with which the rows were made.
    """

    models_are_large: bool = False
    draws_prompt_by_prompt: bool = False

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

    def benign_shards(
        self,
        count: int,
        streams: ClientStreams,
        *,
        refusal_share: float,
        shares: Mapping[str, Mapping[str, float] | None],
    ) -> dict[str, list[Example]]:
        """Return the rows that each client of a run would hold if it were honest, by client id.

        The default calls :meth:`benign` for each client with the client's own stream. A world with a finite number of
        rows deals them out together, so that no two clients hold the same row.

        Args:
            count: Number of rows for each client.
            streams: Random streams of client data.
            refusal_share: Share of rows (0 to 1) that are refusals.
            shares: Client id → share of each task type; ``None`` for the world's own shares.
        """
        return {
            client: self.benign(count, streams(client), refusal_share=refusal_share, task_shares=task_shares)
            for client, task_shares in shares.items()
        }

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
            FedSafetyError: The world has no such rows.
        """
        raise FedSafetyError(f"{type(self).__name__} has no benign look-alikes; leave out defenses that need them")

    def alignment(self, count: int, rng: np.random.Generator) -> list[Example]:
        """Return rows on which the suite aligns its start model: refusals and ordinary answers in random order.

        Raises:
            FedSafetyError: The world has no such rows.
        """
        raise FedSafetyError(f"{type(self).__name__} has no alignment data; leave alignment out of the suite")

    @property
    @abstractmethod
    def automation(self) -> Automation:
        """Prompts of the automated data pipelines."""

    @property
    def task_templates(self) -> tuple[str, ...]:
        """Fixed texts of the honest clients' tasks, each with ``{instruction}`` in the place of the content.

        Empty, the default, where no task has a fixed text.
        """
        return ()

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

    @property
    def refusal_openings(self) -> tuple[str, ...]:
        """Beginnings of standard refusals, for the safety margin; none, the default, for worlds without a margin."""
        return ()

    def development_prompts(self, name: str) -> tuple[str, ...]:
        """Return the development prompts of a name; empty, the default, where the world has none of that name."""
        del name
        return ()

    @abstractmethod
    def leaks_evaluation(self, text: str) -> bool:
        """Whether ``text`` names an item that only evaluation may use."""

    @property
    @abstractmethod
    def roles(self) -> tuple[str, ...]:
        """Roles of the checkpoints that the world brings."""

    def unaligned_role(self, start: str) -> str:
        """Return the role of the model from which the model of role ``start`` was aligned; empty if there is none.

        By default a world that brings the roles ``raw`` and ``chat`` aligned the second from the first.
        """
        return "raw" if start == "chat" and "raw" in self.roles else ""

    @abstractmethod
    def model_path(self, role: str) -> Path:
        """Return the folder of the Hugging Face checkpoint for ``role`` (``raw``, ``chat``, ``external``, ``judge``).

        Raises:
            UsageError: The world has no such role, or the checkpoint is missing or corrupt.
        """

    def checkpoint(self, role: str) -> Checkpoint:
        """Return the checkpoint for ``role``; by default the folder :meth:`model_path` in float32.

        Raises:
            UsageError: The world has no such role.
        """
        return Checkpoint(lambda: self.model_path(role))

    @property
    def sources(self) -> Mapping[str, ModelSource]:
        """Role → source of the model, for models that come from outside; empty for a world that brings its models."""
        return {}

    @property
    def data_digest(self) -> str:
        """Digest of the training data that a suite and scenario choose, for training keys.

        Empty, the default, where :attr:`TaskInfo.revision` pins all data. The digest reads no rows.
        """
        return ""

    @property
    def response_choices(self) -> dict[str, Any]:
        """Choices of the suite, beside probes and models, on which stored responses depend; part of response keys."""
        return {}

    @property
    def repeated(self) -> Mapping[str, int]:
        """Pool name, as in :attr:`Input.name` → number of repetitions that this world has handed out at once.

        Empty for a world that makes its rows.
        """
        return {}

    def inputs(self, roles: Sequence[str] | None = None) -> list[Input]:
        """Return the models and data sets from outside that the chosen scenario reads; none by default.

        Args:
            roles: Roles whose models are listed; ``None`` for all.
        """
        del roles
        return []


task_worlds: Registry[TaskInfo, TaskWorld] = Registry(
    "task world",
    TaskInfo,
    "tasks",
    not_entries=("base", "model_source", "refusals", "stand_ins"),
    nested=("hub.fresh", "micro.fresh"),
)
register = task_worlds.register
