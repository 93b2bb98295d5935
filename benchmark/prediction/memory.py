"""How much memory training and answering will take at most, and the refusal of what cannot fit."""

from __future__ import annotations

from dataclasses import dataclass

from benchmark.errors import UsageError
from benchmark.generation.rounding import rounding_obstacle
from benchmark.prediction.device import Device
from benchmark.prediction.model import BYTES, Decoder
from benchmark.prediction.step import Step, activation_bytes, adapter_state_bytes
from benchmark.suites.settings import LoraSettings
from benchmark.suites.suite import Compute
from benchmark.training.microbatches import divide

GIB = 1 << 30

_FREE_SHARE = 0.8
"""Share of a GPU's free memory that the activations of a step take where the suite sets no budget."""

_CPU_CACHE = 8 * GIB
"""Largest key-value cache of vLLM on a processor; as in :class:`benchmark.generation.vllm_engine.VllmEngine`."""

_SAMPLED_BATCH, _SAMPLED_CACHE = 256, 8 * GIB
"""Most sequences that are sampled at once during a run, and their largest key-value cache; as in
:mod:`benchmark.models.sampling`."""

_LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks that vLLM has buffers for."""


@dataclass(frozen=True)
class Precision:
    """Number format of a model's weights and of the products with them."""

    dtype: str
    quantization: str = ""

    def __str__(self) -> str:
        return f"{self.dtype}, linear layers in {self.quantization}" if self.quantization else self.dtype


@dataclass(frozen=True)
class SamplingMemory:
    """Bytes of a training process while a model generates data, before or after the rounds.

    Attributes:
        role: Which model generates.
        weights: The frozen base that is trained.
        second: The model that generates, where it is another one.
        cache: Keys and values of a full batch.
        least_cache: Keys and values of one sequence; where memory runs out, batches are halved down to that.
    """

    role: str
    weights: int
    second: int
    cache: int
    least_cache: int

    @property
    def total(self) -> int:
        """Everything at once."""
        return self.weights + self.second + self.cache

    def needed(self, device: Device) -> int:
        """Return what it cannot do without: a processor's memory does not run out in a way that could be mended."""
        return self.weights + self.second + (self.least_cache if device.kind == "cuda" else self.cache)


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes of a training process at its peak.

    Attributes:
        weights: The frozen base.
        adapters: Factors, gradients and optimizer moments of all clients of a round.
        activations: Of a step's part that is computed at once.
        one_row: Activations of a part of one row, below which no division goes.
        parts: Parts that a step is divided into, so that its activations keep to their budget.
        budget: Bytes that the activations may take; ``None`` for any.
        sampling: Of generating data, where that is done; the generating model is let go before anything is trained.
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
        """Of training steps, everything at once."""
        return self.weights + self.adapters + self.activations

    @property
    def peak(self) -> int:
        """Of training steps or of generating data, whichever takes more."""
        return max(self.steps, self.sampling.total if self.sampling else 0)


@dataclass(frozen=True)
class AnsweringMemory:
    """Bytes of the answering engine, on each of the devices that share it.

    Attributes:
        weights: The base model.
        adapters: Slots for the adapters of a batch.
        least_cache: Key-value cache of one sequence of full length; without it nothing can be answered.
        full_cache: Key-value cache of a full batch of such sequences; with less, fewer are answered at once.
        fraction: Share of a GPU's memory that the engine takes, whatever it needs.
    """

    weights: int
    adapters: int
    least_cache: int
    full_cache: int
    fraction: float

    @property
    def least(self) -> int:
        """What it cannot do without."""
        return self.weights + self.adapters + self.least_cache

    def taken(self, device: Device) -> int:
        """Return what it takes on ``device``."""
        if device.kind == "cuda":
            return int(self.fraction * device.memory)
        return self.weights + self.adapters + min(self.full_cache, _CPU_CACHE)


def training_memory(
    decoder: Decoder,
    precision: Precision,
    lora: LoraSettings,
    step: Step,
    compute: Compute,
    device: Device,
    *,
    checkpointing: bool,
) -> TrainingMemory:
    """Return the peak of training, with each step divided as often as its budget asks for.

    A step that exceeds its budget even row by row is returned as it then is.
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
            decoder, lora, part, precision.dtype, precision.quantization, checkpointing=checkpointing
        )

    parts = divide([[step.width] * step.rows] * step.clients, need, budget)
    activations = max(need(sum(map(len, part.rows)), step.width) for part in parts)
    return TrainingMemory(weights, adapters, activations, need(1, step.width), len(parts), budget)


def _budget(compute: Compute, device: Device, fixed: int) -> int | None:
    if compute.train_memory_gib is not None:
        return int(compute.train_memory_gib * GIB)
    return int(_FREE_SHARE * max(0, device.memory - fixed)) if device.kind == "cuda" else None


def sampling_memory(
    role: str, decoder: Decoder, precision: Precision, start: TrainingMemory, length: int, *, second: bool
) -> SamplingMemory:
    """Return what generating data takes.

    Args:
        role: Of the model that generates.
        decoder: Its sizes.
        precision: Its number format.
        start: Training of the starting model.
        length: Tokens of a prompt with its answer.
        second: Whether it is loaded beside the starting model.
    """
    one = length * _cache_bytes(decoder, precision)
    weights = decoder.weight_bytes(precision.dtype, precision.quantization) if second else 0
    return SamplingMemory(role, start.weights, weights, min(_SAMPLED_BATCH * one, max(_SAMPLED_CACHE, one)), one)


def held_quantization(quantization: str, generator: str, tensor_parallel: int = 1) -> str:
    """Return in which format an engine holds quantised weights: vLLM rounds them and holds them unquantised.

    Args:
        quantization: As training holds them.
        generator: Name of the engine, with or without its version.
        tensor_parallel: Devices that share the model.
    """
    rounds = generator.startswith("vllm") and rounding_obstacle(quantization, tensor_parallel) is None
    return "" if rounds else quantization


def answering_memory(
    decoder: Decoder, precision: Precision, lora: LoraSettings | None, compute: Compute, length: int, generator: str
) -> AnsweringMemory:
    """Return what answering needs, for prompts with answers of at most ``length`` tokens.

    The engine has slots for adapters in all linear layers if it is to answer with adapters. For the format in which it
    holds the weights see :func:`held_quantization`.
    """
    size, devices = BYTES[precision.dtype], compute.tensor_parallel
    held = held_quantization(precision.quantization, generator, devices)
    rank = next((r for r in _LORA_RANKS if r >= lora.rank), lora.rank) if lora else 0
    slots = compute.max_loras * decoder.layers * rank * sum(x.inputs + x.outputs for x in decoder.linears) * size
    sequence = length * _cache_bytes(decoder, precision)
    return AnsweringMemory(
        weights=decoder.weight_bytes(precision.dtype, held) // devices,
        adapters=slots // devices,
        least_cache=sequence // devices,
        full_cache=compute.max_batch * sequence // devices,
        fraction=compute.gpu_memory_fraction,
    )


def _cache_bytes(decoder: Decoder, precision: Precision) -> int:
    """Return the bytes of one token's keys and values."""
    return 2 * decoder.layers * decoder.kv_heads * decoder.head_dim * BYTES[precision.dtype]


def refuse_training(role: str, memory: TrainingMemory, device: Device, workers: int, *, checkpointing: bool) -> None:
    """Refuse training that does not fit into ``device``.

    Raises:
        UsageError: It does not; gives the numbers and the way out.
    """
    workers = workers if device.kind == "cpu" else 1
    each = f" in each of {workers} processes" if workers > 1 else ""
    sampling = memory.sampling
    if workers * memory.steps <= device.memory:
        if sampling is None or workers * sampling.needed(device) <= device.memory:
            return
        needed = sampling.needed(device)
        cache = needed - sampling.weights - sampling.second
        beside = f", those of {sampling.role!r} {gib(sampling.second)}" if sampling.second else ""
        raise UsageError(
            f"training model {role!r} would take {gib(needed)}{each} while {sampling.role!r} generates data "
            f"(weights {gib(sampling.weights)}{beside}, keys and values {gib(cache)}), but {device.name} has "
            f"{gib(device.memory)}; load the models in a smaller format (dtype, quantization), name a smaller model "
            f"for the role {sampling.role!r} in the suite's models, or leave out what generates data"
        )
    parts = f" in {memory.parts} parts a step" if memory.parts > 1 else ""
    raise UsageError(
        f"training model {role!r} would take {gib(memory.steps)} at its peak{each} (weights {gib(memory.weights)}, "
        f"adapters and optimizer {gib(memory.adapters)}, activations {gib(memory.activations)}{parts}), but "
        f"{device.name} has {gib(device.memory)}; {_way_out(memory, device.memory // workers, checkpointing)}"
    )


def _way_out(memory: TrainingMemory, available: int, checkpointing: bool) -> str:
    room = int(_FREE_SHARE * (available - memory.weights - memory.adapters))
    ways = ["load the model in a smaller format (dtype, quantization)", "run a tier or suite with a smaller model"]
    if room >= memory.one_row:
        ways.insert(0, f"set compute.train_memory_gib to {room / GIB:.1f}, which divides a step into parts that fit")
    elif room > 0:
        again = "" if checkpointing else "training.gradient_checkpointing or "
        ways.insert(0, f"set {again}a smaller training.max_length, as not even one row fits")
    return ", or ".join(ways)


def refuse_answering(role: str, memory: AnsweringMemory, device: Device) -> None:
    """Refuse answering that does not fit into ``device``.

    Raises:
        UsageError: It does not; gives the numbers and the way out.
    """
    lack = _lack(memory, device)
    if lack is not None:
        raise UsageError(
            f"answering with model {role!r} {lack}; lower compute.max_loras or compute.max_length, raise "
            f"compute.tensor_parallel, load the model in a smaller format (dtype, and where transformers answers "
            f"quantization), or run a suite with a smaller model"
        )


def judge_too_large(judge: str, memory: AnsweringMemory, device: Device) -> str | None:
    """Return why a judge cannot be asked on ``device``, with the numbers and the way out, or ``None``."""
    lack = _lack(memory, device)
    if lack is None:
        return None
    return (
        f"judge {judge}: its model {lack}; name a smaller model for the role {judge} in the suite's models, or ask it "
        f"on a larger machine with 'fedsafety judge', which needs the stored responses alone"
    )


def _lack(memory: AnsweringMemory, device: Device) -> str | None:
    room = int(memory.fraction * device.memory) if device.kind == "cuda" else device.memory
    if memory.least <= room:
        return None
    share = f" ({memory.fraction:.0%} of {gib(device.memory)})" if device.kind == "cuda" else ""
    slots = f", adapter slots {gib(memory.adapters)}" if memory.adapters else ""
    return (
        f"needs at least {gib(memory.least)} on each device (weights {gib(memory.weights)}{slots}, cache of one "
        f"{gib(memory.least_cache)}), but {device.name} offers {gib(room)}{share}"
    )


def gib(count: float) -> str:
    """Return bytes for the reader."""
    return f"{count / GIB:.1f} GiB" if count >= GIB / 10 else f"{count / (1 << 20):.1f} MiB"
