"""Memory that an engine needs to answer with a model, and memory of this machine."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from benchmark.errors import UsageError
from benchmark.generation.rounding import rounding_obstacle
from benchmark.generation.settings import buffer_rank
from benchmark.models.sizes import BYTES, CPU_CACHE_BYTES, Decoder, Precision, gib
from benchmark.suites.settings import Adapters, LoraSettings
from benchmark.suites.suite import Compute


@dataclass(frozen=True)
class Device:
    """A device on which models run.

    Attributes:
        kind: A GPU or the processor.
        name: Name for the reader.
        memory: Bytes that a process may use: of the GPU, or of the machine up to the container's limit.
    """

    kind: Literal["cuda", "cpu"]
    name: str
    memory: int


@dataclass(frozen=True)
class AnsweringMemory:
    """Bytes of the answering engine on each device that shares it.

    Attributes:
        weights: The base model.
        adapters: Slots for the adapters of a batch, or 0 where adapters are merged.
        copy: A copy of the linear layers' weights, from which the base model is restored after a merged adapter, or 0.
        least_cache: Key-value cache of one sequence of full length, the least for an answer.
        full_cache: Key-value cache of a full batch of such sequences; with less, batches are smaller.
        fraction: Share of a GPU's memory that the engine takes, even if it needs less.
    """

    weights: int
    adapters: int
    copy: int
    least_cache: int
    full_cache: int
    fraction: float

    @property
    def fixed(self) -> int:
        """Bytes without keys and values."""
        return self.weights + self.adapters + self.copy

    @property
    def least(self) -> int:
        """Least bytes with which the engine can answer."""
        return self.fixed + self.least_cache

    def taken(self, device: Device) -> int:
        """Return the bytes that the engine takes on ``device``."""
        if device.kind == "cuda":
            return int(self.fraction * device.memory)
        return self.fixed + min(self.full_cache, CPU_CACHE_BYTES)


def this_device() -> Device:
    """Return the first GPU, or the processor where there is none."""
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        return Device("cuda", properties.name, properties.total_memory)
    return Device("cpu", f"processor, {_processors()} cores", _machine_memory())


def held_quantization(quantization: str, generator: str, tensor_parallel: int = 1) -> str:
    """Return the format in which an engine holds quantised weights: vLLM rounds them and holds them unquantised.

    Args:
        quantization: Format in training.
        generator: Name of the engine, with or without its version.
        tensor_parallel: Devices that share the model.
    """
    rounds = generator.startswith("vllm") and rounding_obstacle(quantization, tensor_parallel) is None
    return "" if rounds else quantization


def answering_memory(
    decoder: Decoder,
    precision: Precision,
    lora: LoraSettings | None,
    compute: Compute,
    length: int,
    generator: str,
    adapters: Adapters = "lora",
) -> AnsweringMemory:
    """Return the memory of answering, for prompts with answers of at most ``length`` tokens.

    With ``lora``, the engine has slots for adapters in all linear layers, or a copy of their weights where it merges
    adapters. For the format of its weights see :func:`held_quantization`.
    """
    size, devices = BYTES[precision.dtype], compute.tensor_parallel
    held = held_quantization(precision.quantization, generator, devices)
    rank = buffer_rank(lora.rank) if lora else 0
    merges = lora is not None and adapters == "merged"
    slots = compute.max_loras * decoder.layers * rank * sum(x.inputs + x.outputs for x in decoder.linears) * size
    sequence = length * decoder.cache_bytes(precision.dtype)
    return AnsweringMemory(
        weights=decoder.weight_bytes(precision.dtype, held) // devices,
        adapters=0 if merges else slots // devices,
        copy=decoder.linear_bytes(precision.dtype) if merges else 0,
        least_cache=sequence // devices,
        full_cache=compute.max_batch * sequence // devices,
        fraction=compute.gpu_memory_fraction,
    )


def refuse_answering(role: str, memory: AnsweringMemory, device: Device) -> None:
    """Refuse answering that does not fit into ``device``.

    Raises:
        UsageError: Answering does not fit; the message gives the numbers and the way out.
    """
    lack = _lack(memory, device)
    if lack is not None:
        ways = "lower compute.max_loras or compute.max_length, raise compute.tensor_parallel"
        if memory.copy:
            ways = "set decoding.adapters to lora, lower compute.max_length"
        raise UsageError(
            f"answering with model {role!r} {lack}; {ways}, load the model in a smaller format (dtype, and where "
            f"transformers answers quantization), or run a suite with a smaller model"
        )


def judge_too_large(judge: str, memory: AnsweringMemory, device: Device) -> str | None:
    """Return why a judge does not fit into ``device``, with the numbers and the way out, or ``None``."""
    lack = _lack(memory, device)
    if lack is None:
        return None
    return (
        f"judge {judge}: its model {lack}; name a smaller model for the role {judge} in the suite's models, or run "
        f"'fedsafety judge' on a larger machine, which needs the stored responses alone"
    )


def _lack(memory: AnsweringMemory, device: Device) -> str | None:
    room = int(memory.fraction * device.memory) if device.kind == "cuda" else device.memory
    if memory.least <= room:
        return None
    share = f" ({memory.fraction:.0%} of {gib(device.memory)})" if device.kind == "cuda" else ""
    adapters = f", adapter slots {gib(memory.adapters)}" if memory.adapters else ""
    adapters += f", copy for merging {gib(memory.copy)}" if memory.copy else ""
    return (
        f"needs at least {gib(memory.least)} on each device (weights {gib(memory.weights)}{adapters}, cache of one "
        f"sequence {gib(memory.least_cache)}), but {device.name} offers {gib(room)}{share}"
    )


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_memory() -> int:
    """Return the bytes of the machine's memory that new processes can take now."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:  # no Linux
        return _machine_memory()
    (available,) = (int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
    return min(available, _machine_memory())


def _machine_memory() -> int:
    """Return the machine's memory, or the container's limit where it is smaller."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = Path(limit).read_text(encoding="ascii").strip()
        except OSError:
            continue
        if text.isdigit():
            memory = min(memory, int(text))
    return memory
