"""Models that are ready for training and sampling, and the pool that keeps some of them open."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmark.models.chat import ChatFormat
from benchmark.models.loading import load_causal_lm
from benchmark.models.memory import free_memory
from benchmark.suites.settings import LoraSettings
from benchmark.suites.suite import Suite
from benchmark.training.stacked import StackedModel
from tasks.base import TaskWorld

_SMALL_MODELS = 4
_LARGE_MODELS = 2
"""Number of models that stay open at once. Two large models are the trained one and one that generates data; a third
would not fit into memory beside them."""


@dataclass(frozen=True)
class ServedModel:
    """A model that can be trained and sampled from, with its chat format."""

    stacked: StackedModel
    chat: ChatFormat


@dataclass(frozen=True)
class ModelSpec:
    """A checkpoint and the way to load it for stacked training.

    Attributes:
        path: Folder of the checkpoint.
        lora: Adapters to train.
        dtype: Number format of the weights.
        quantization: Format of the frozen linear layers; empty for no quantisation.
        gradient_checkpointing: Whether the backward pass computes activations again.
        template: Chat template that replaces the tokenizer's own, or ``None``.
        pad_token: Pad token where the tokenizer names none.
        memory_bytes: Memory for the activations of a training step; ``None`` for the trainer's own rule.
        large: Whether memory limits the number of open models; see :attr:`tasks.base.TaskWorld.models_are_large`.
    """

    path: Path
    lora: LoraSettings
    dtype: str = "float32"
    quantization: str = ""
    gradient_checkpointing: bool = False
    template: str | None = None
    pad_token: str = ""
    memory_bytes: int | None = None
    large: bool = False

    @classmethod
    def of(cls, suite: Suite, world: TaskWorld, role: str) -> ModelSpec:
        """Return the spec of a role's model in a suite."""
        checkpoint, budget = world.checkpoint(role), suite.compute.train_memory_gib
        return cls(
            path=checkpoint.path,
            lora=suite.lora,
            dtype=checkpoint.dtype,
            quantization=checkpoint.quantization,
            gradient_checkpointing=suite.training.gradient_checkpointing,
            template=checkpoint.template,
            pad_token=checkpoint.pad_token,
            memory_bytes=None if budget is None else int(budget * 2**30),
            large=world.models_are_large,
        )

    def load(self) -> ServedModel:
        """Return the model, loaded from its checkpoint."""
        chat = ChatFormat(self.path, template=self.template, pad_token=self.pad_token)
        model = load_causal_lm(
            self.path,
            dtype=self.dtype,
            quantization=self.quantization,
            gradient_checkpointing=self.gradient_checkpointing,
        )
        return ServedModel(StackedModel(model, self.lora, chat.pad_id, memory_bytes=self.memory_bytes), chat)


class ModelPool:
    """Models that a process keeps open. The pool closes the least recently used one to make room for another."""

    def __init__(self) -> None:
        self._models: OrderedDict[ModelSpec, ServedModel] = OrderedDict()

    @property
    def specs(self) -> tuple[ModelSpec, ...]:
        """Specs of the open models, the most recently used one last."""
        return tuple(self._models)

    def open(self, spec: ModelSpec) -> ServedModel:
        """Return the model of ``spec``, loaded unless it is open."""
        if spec in self._models:
            self._models.move_to_end(spec)
            return self._models[spec]
        while len(self._models) >= (_LARGE_MODELS if spec.large else _SMALL_MODELS):
            self._models.popitem(last=False)
            free_memory()
        self._models[spec] = spec.load()
        return self._models[spec]

    def close(self, spec: ModelSpec) -> None:
        """Close the model of ``spec`` if it is open."""
        self._models.pop(spec, None)


@dataclass(frozen=True)
class RoleModels:
    """The models of a world's roles, opened in a pool with the settings of a suite."""

    pool: ModelPool
    suite: Suite
    world: TaskWorld

    def open(self, role: str) -> ServedModel:
        """Return the model of a role, ready for training and sampling."""
        return self.pool.open(self._spec(role))

    @contextlib.contextmanager
    def lent(self, role: str, *, beside: str) -> Iterator[Callable[[], ServedModel]]:
        """Lend a model to a part of a job, and close it afterwards if the world's models are large.

        Args:
            role: Role of the lent model.
            beside: Role of the trained model. This model stays open, even if it is the lent one.

        Yields:
            A function that opens the model on its first call.
        """
        opened = False

        def opener() -> ServedModel:
            nonlocal opened
            opened = True
            return self.open(role)

        try:
            yield opener
        finally:
            if opened and self.world.models_are_large:
                if self._spec(role) != self._spec(beside):
                    self.pool.close(self._spec(role))
                free_memory()

    def _spec(self, role: str) -> ModelSpec:
        return ModelSpec.of(self.suite, self.world, role)
