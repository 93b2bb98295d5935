"""Weights of a model's adapted layers before the federation: those of the start model and of the unaligned model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from benchmark.errors import FedSafetyError
from benchmark.updates import AdapterLayout
from tasks.base import TaskWorld


class CheckpointWeights:
    """Weights of a checkpoint, read one tensor at a time.

    Args:
        locate: Returns the folder with safetensors files. It is called at the first use, because finding a folder may
            fetch a model that no method of the run reads.
    """

    def __init__(self, locate: Callable[[], Path]) -> None:
        self._locate = locate

    @cached_property
    def _folder(self) -> Path:
        return self._locate()

    @cached_property
    def _files(self) -> dict[str, Path]:
        files: dict[str, Path] = {}
        for path in sorted(self._folder.glob("*.safetensors")):
            with safe_open(path, framework="pt") as tensors:
                files |= dict.fromkeys(tensors.keys(), path)
        return files

    def of(self, layer: str) -> Tensor:
        """Return the weights ``[out, in]`` (float32) of a linear layer.

        Raises:
            FedSafetyError: The checkpoint has no such layer.
        """
        name = f"{layer}.weight"
        if name not in self._files:
            raise FedSafetyError(
                f"the checkpoint in {self._folder} has no tensor {name!r}; a defense that reads weights needs a "
                f"checkpoint whose tensors have the names of the model's layers"
            )
        with safe_open(self._files[name], framework="pt") as tensors:
            weights: Tensor = tensors.get_tensor(name)
        return weights.float()


@dataclass(frozen=True)
class WeightsBefore:
    """Weights of the start model and of the model from which it was aligned.

    Attributes:
        start: Checkpoint of the start model.
        unaligned: Checkpoint of the unaligned model; ``None`` where the suite has none, or where the start model is
            aligned by an adapter.
        adapter: Returns the flat adapter ``[d]`` that aligns the start model; ``None`` where none does.
        layout: Layout of the adapter.
        scaling: LoRA's factor s.
    """

    start: CheckpointWeights
    unaligned: CheckpointWeights | None
    adapter: Callable[[], Tensor] | None
    layout: AdapterLayout
    scaling: float

    @classmethod
    def of_start(
        cls, world: TaskWorld, start: str, adapter: Callable[[], Tensor] | None, layout: AdapterLayout, scaling: float
    ) -> WeightsBefore:
        """Return the weights of a start model of a world and of the model from which it was aligned.

        Args:
            world: The world.
            start: Role of the start model.
            adapter: Returns the flat adapter ``[d]`` that aligns the start model; ``None`` where none does.
            layout: Layout of the adapter.
            scaling: LoRA's factor s.
        """
        unaligned = world.unaligned_role(start)
        return cls(
            CheckpointWeights(lambda: world.checkpoint(start).path),
            CheckpointWeights(lambda: world.checkpoint(unaligned).path) if unaligned else None,
            adapter,
            layout,
            scaling,
        )

    @property
    def differ(self) -> bool:
        """Whether there is an unaligned model."""
        return self.unaligned is not None or self.adapter is not None

    def of(self, layer: str, *, aligned: bool) -> Tensor:
        """Return the weights ``[out, in]`` (float32) of an adapted layer.

        Raises:
            FedSafetyError: A checkpoint has no such layer.
        """
        if not aligned and self.unaligned is not None:
            return self.unaligned.of(layer)
        weights = self.start.of(layer)
        if aligned and self.adapter is not None:
            views = self.layout.views(self.adapter())
            weights = weights.addmm_(views[f"{layer}.lora_B"], views[f"{layer}.lora_A"], alpha=self.scaling)
        return weights
