"""Settings of a generation engine: the size of its batches, and the number format of its model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmark.errors import UsageError, unknown_name
from benchmark.suites.settings import Adapters, merging_obstacle
from benchmark.updates import LARGEST_RANK

if TYPE_CHECKING:
    from benchmark.suites.suite import Compute
    from tasks.base import Checkpoint

QUANTIZATIONS = ("", "8bit", "4bit")

LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, LARGEST_RANK)
"""Ranks that vLLM has buffers for."""


@dataclass(frozen=True)
class EngineSettings:
    """Settings with which an engine is opened over a base model.

    Attributes:
        max_lora_rank: Largest rank of the adapters that requests will name, in vLLM at most 512.
        max_batch: Sequences in one batch.
        max_length: Longest prompt with its answer, in tokens; by default the model's limit, in vLLM at most 4,096.
        dtype: ``auto`` (float32 on the CPU, the checkpoint's own on a GPU), ``float32``, ``bfloat16`` or ``float16``.
        quantization: ``8bit`` or ``4bit``, as training rounds the base model's weights; empty for none.
        tensor_parallel: GPUs that share the model, in vLLM only.
        gpu_memory_fraction: Share of each GPU's memory that vLLM takes for the model and its key-value cache.
        max_loras: Adapters in one batch, in vLLM. Each costs the memory of one adapter at the largest rank.
        template: Chat template in the place of the tokenizer's own, whose end of a turn ends answers too.
        adapters: ``lora`` to add each adapter's product in every layer, in vLLM for many adapters in one batch, or
            ``merged`` to add one adapter at a time to the weights (:mod:`benchmark.generation.merging`).

    Raises:
        UsageError: The quantization is unknown, or adapters cannot be merged into weights of this form.
    """

    max_lora_rank: int = 8
    max_batch: int = 256
    max_length: int | None = None
    dtype: str = "auto"
    quantization: str = ""
    tensor_parallel: int = 1
    gpu_memory_fraction: float = 0.9
    max_loras: int = 8
    template: str | None = None
    adapters: Adapters = "lora"

    def __post_init__(self) -> None:
        if self.quantization not in QUANTIZATIONS:
            raise unknown_name("quantization", self.quantization, QUANTIZATIONS[1:])
        if self.merges and (obstacle := merging_obstacle(self.quantization, self.tensor_parallel)):
            raise UsageError(f"adapters cannot be merged into the model: {obstacle}")

    @property
    def merges(self) -> bool:
        """Whether adapters are merged into the weights."""
        return self.adapters == "merged"

    def label(self, engine: str) -> str:
        """Return an engine's name as rows record it: merged adapters round in another way, so the name differs."""
        return f"{engine} with merged adapters" if self.merges else engine

    @classmethod
    def of(
        cls,
        compute: Compute,
        checkpoint: Checkpoint,
        *,
        max_lora_rank: int,
        max_length: int | None = None,
        max_loras: int | None = None,
        adapters: Adapters = "lora",
    ) -> EngineSettings:
        """Return the settings for a checkpoint and a suite's use of the machine.

        Args:
            compute: Use of the machine.
            checkpoint: The base model, for its number formats and chat template. Its files are not read.
            max_lora_rank: Largest rank of the adapters that requests will name.
            max_length: Longest prompt with its answer, in tokens; by default that of ``compute``.
            max_loras: Adapters in one batch; by default those of ``compute``.
            adapters: Way to apply adapters.
        """
        return cls(
            max_lora_rank=max_lora_rank,
            max_batch=compute.max_batch,
            max_length=max_length or compute.max_length,
            dtype=checkpoint.dtype,
            quantization=checkpoint.quantization,
            tensor_parallel=compute.tensor_parallel,
            gpu_memory_fraction=compute.gpu_memory_fraction,
            max_loras=compute.max_loras if max_loras is None else max_loras,
            template=checkpoint.template,
            adapters=adapters,
        )


def buffer_rank(rank: int) -> int:
    """Return the smallest rank of vLLM's buffers that holds ``rank``, or ``rank`` itself beyond the largest buffer."""
    return next((buffered for buffered in LORA_RANKS if buffered >= rank), rank)
