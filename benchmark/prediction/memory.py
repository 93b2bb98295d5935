"""Upper bound on the memory of training, and the refusal of training that does not fit."""

from __future__ import annotations

from dataclasses import dataclass

from benchmark.errors import UsageError
from benchmark.generation.needs import Device
from benchmark.models.sizes import (
    ACTIVATION_SHARE,
    GIB,
    HEAP_SHARE,
    PROCESS_BYTES,
    SAMPLED_BATCH,
    SAMPLED_CACHE_BYTES,
    Decoder,
    Precision,
    gib,
)
from benchmark.prediction.step import Step, activation_bytes, adapter_state_bytes
from benchmark.suites.settings import LoraSettings
from benchmark.suites.suite import Compute
from benchmark.training.microbatches import divide


@dataclass(frozen=True)
class SamplingMemory:
    """Bytes of a training process while a model generates data, before or after the rounds.

    Attributes:
        role: Role of the generating model.
        weights: Frozen base of the trained model.
        second: The generating model if it is not the trained one, else 0.
        cache: Keys and values of a full batch.
        least_cache: Keys and values of one sequence, to which a batch is halved if memory runs out.
    """

    role: str
    weights: int
    second: int
    cache: int
    least_cache: int

    @property
    def total(self) -> int:
        """Bytes in all."""
        return self.weights + self.second + self.cache

    def needed(self, device: Device) -> int:
        """Return the least bytes for generation. On a processor, a batch is not halved when memory runs out."""
        return self.weights + self.second + (self.least_cache if device.kind == "cuda" else self.cache)


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes of a training process at its peak.

    Attributes:
        weights: The frozen base.
        adapters: Factors, gradients and optimizer moments of all clients of a round.
        activations: Activations of a part of a step that is computed at once.
        one_row: Activations of one row, the smallest part.
        parts: Parts that a step is divided into, so that its activations keep to their budget.
        budget: Bytes that the activations may take; ``None`` for no limit.
        sampling: Memory of generating data, or ``None``. The generating model is closed before training.
    """

    weights: int
    adapters: int
    activations: int
    one_row: int
    parts: int
    budget: int | None
    sampling: SamplingMemory | None = None

    @property
    def steps(self) -> int:
        """Bytes of training steps in all."""
        return self.weights + self.adapters + self.activations

    @property
    def peak(self) -> int:
        """Bytes of training steps or of generating data, the larger of both."""
        return max(self.steps, self.sampling.total if self.sampling else 0)

    def resident(self, device: Device) -> int:
        """Return the bytes that a process takes of ``device`` while it trains.

        On a processor these include the process itself and the holes of its heap.
        """
        if device.kind != "cpu":
            return self.steps
        return PROCESS_BYTES + self.weights + int(HEAP_SHARE * (self.adapters + self.activations))


def training_memory(
    decoder: Decoder,
    precision: Precision,
    lora: LoraSettings,
    step: Step,
    compute: Compute,
    device: Device,
    *,
    checkpointing: bool,
    lean: bool = False,
) -> TrainingMemory:
    """Return the peak of training, with each step divided until it keeps to its budget.

    A step that exceeds its budget even row by row is divided into rows.
    """
    weights = decoder.weight_bytes(precision.dtype, precision.quantization)
    adapters = adapter_state_bytes(decoder, lora, step.clients)
    budget = _budget(compute, device, weights + adapters)

    def need(rows: int, width: int) -> int:
        clients = min(step.clients, rows)
        part = Step(
            clients, -(-rows // clients), width, -(-rows // clients) * width * step.losses // (step.rows * step.width)
        )
        return activation_bytes(
            decoder, lora, part, precision.dtype, precision.quantization, checkpointing=checkpointing, lean=lean
        )

    parts = divide([[step.width] * step.rows] * step.clients, need, budget)
    activations = max(need(sum(map(len, part.rows)), step.width) for part in parts)
    return TrainingMemory(weights, adapters, activations, need(1, step.width), len(parts), budget)


def _budget(compute: Compute, device: Device, fixed: int) -> int | None:
    if compute.train_memory_gib is not None:
        return int(compute.train_memory_gib * GIB)
    return int(ACTIVATION_SHARE * max(0, device.memory - fixed)) if device.kind == "cuda" else None


def sampling_memory(
    role: str, decoder: Decoder, precision: Precision, start: TrainingMemory, length: int, *, second: bool
) -> SamplingMemory:
    """Return the memory of generating data.

    Args:
        role: Role of the generating model.
        decoder: Its sizes.
        precision: Its number format.
        start: Training of the starting model.
        length: Tokens of a prompt with its answer.
        second: Whether it is loaded beside the starting model.
    """
    sequence = length * decoder.cache_bytes(precision.dtype)
    weights = decoder.weight_bytes(precision.dtype, precision.quantization) if second else 0
    cache = min(SAMPLED_BATCH * sequence, max(SAMPLED_CACHE_BYTES, sequence))
    return SamplingMemory(role, start.weights, weights, cache, sequence)


def refuse_training(role: str, memory: TrainingMemory, device: Device, workers: int, *, checkpointing: bool) -> None:
    """Refuse training that does not fit into ``device``.

    Raises:
        UsageError: Training does not fit; the message gives the numbers and the way out.
    """
    workers = workers if device.kind == "cpu" else 1
    processes = f" in each of {workers} processes" if workers > 1 else ""
    sampling = memory.sampling
    if workers * memory.resident(device) <= device.memory:
        if sampling is None or workers * sampling.needed(device) <= device.memory:
            return
        needed = sampling.needed(device)
        cache = needed - sampling.weights - sampling.second
        beside = f", those of {sampling.role!r} {gib(sampling.second)}" if sampling.second else ""
        raise UsageError(
            f"training model {role!r} would take {gib(needed)}{processes} while {sampling.role!r} generates data "
            f"(weights {gib(sampling.weights)}{beside}, keys and values {gib(cache)}), but {device.name} has "
            f"{gib(device.memory)}; load the models in a smaller format (dtype, quantization), name a smaller model "
            f"for the role {sampling.role!r} in the suite's models, or leave out methods that generate data"
        )
    parts = f" in {memory.parts} parts a step" if memory.parts > 1 else ""
    raise UsageError(
        f"training model {role!r} would take {gib(memory.resident(device))} at its peak{processes} (weights "
        f"{gib(memory.weights)}, adapters and optimizer {gib(memory.adapters)}, activations "
        f"{gib(memory.activations)}{parts}{rest_of(memory, device)}), but {device.name} has {gib(device.memory)}; "
        f"{_way_out(memory, device, workers, checkpointing)}"
    )


def rest_of(memory: TrainingMemory, device: Device) -> str:
    """Return the memory that a process takes beside its tensors, as the end of a list; empty on a GPU."""
    rest = memory.resident(device) - memory.steps
    return f", the process and holes in its heap {gib(rest)}" if rest else ""


def _way_out(memory: TrainingMemory, device: Device, workers: int, checkpointing: bool) -> str:
    available = device.memory // workers - memory.weights
    if device.kind == "cpu":
        available = int((available - PROCESS_BYTES) / HEAP_SHARE)
    room = int(ACTIVATION_SHARE * (available - memory.adapters))
    ways = ["load the model in a smaller format (dtype, quantization)", "run a tier or suite with a smaller model"]
    if room >= memory.one_row:
        ways.insert(0, f"set compute.train_memory_gib to {room / GIB:.1f}, which divides a step into parts that fit")
    elif room > 0:
        again = "" if checkpointing else "training.gradient_checkpointing or "
        ways.insert(0, f"set {again}a smaller training.max_length, because not even one row fits")
    return ", or ".join(ways)
