"""Shares of this machine's measured rates that each kind of work reaches."""

from __future__ import annotations

from dataclasses import dataclass

from benchmark.execution.plan import Plan
from benchmark.generation.needs import Device
from benchmark.prediction.device import Rate

GPU_SHARE = 0.4
"""Assumed share of a GPU's rates."""

TRAINING_SHARE = 0.6
"""Share of the matrix rate in training on a processor. Rounds of suite ``pocket`` reached 57 % to 61 %, its server-side
fine-tuning 52 %, and the benchmark of one round 69 % (docs/performance.md)."""

MERGED_SHARE = 0.65
"""The same in answers of vLLM with merged adapters (64 %), in their likelihoods (65 %) and in a judge's answers."""

KERNELS_SHARE = 0.18
"""The same in answers (18 %) and likelihoods (17 %) of vLLM with LoRA kernels."""

TRANSFORMERS_SHARE = 0.25
"""The same in answers of transformers (25 %)."""

SAMPLING_SHARE = 0.22
"""The same in data that a model generates in a training process. With suite ``pocket``, 220 sequences at once reached
30 %, and batches of 64 and 32 reached 15 % to 20 %."""

ENGINE_SECONDS = 75.0
"""Time in which vLLM opens on a processor, once in a run, as measured with suite ``pocket``."""

PROCESS_SECONDS = 60.0
"""Time in which a training process on a processor starts, opens its model and reads its data, as measured with suite
``pocket``."""


@dataclass(frozen=True)
class Shares:
    """Shares of the measured rates, by kind of work.

    Attributes:
        training: Training steps.
        answering: Answers to probes, and likelihoods.
        judging: Answers of judges.
        sampling: Data that attacks and defenses generate in training.
    """

    training: float
    answering: float
    judging: float
    sampling: float

    def __str__(self) -> str:
        if len({self.training, self.answering, self.judging, self.sampling}) == 1:
            return f"{self.training:.0%} of both"
        return (
            f"{self.training:.0%} in training, {self.answering:.0%} in answers and likelihoods, {self.sampling:.0%} in "
            f"data that a model generates"
        )


def shares_of(plan: Plan, device: Device, rate: Rate | None = None) -> Shares:
    """Return the shares for a plan's engine and way of applying adapters on ``device``.

    vLLM takes its products in bfloat16 even where the processor lacks instructions for them. Its shares then fall as
    ``rate`` measured such products beside those of training.
    """
    if device.kind != "cpu":
        return Shares(GPU_SHARE, GPU_SHARE, GPU_SHARE, GPU_SHARE)
    if not plan.generator.startswith("vllm"):
        return Shares(TRAINING_SHARE, TRANSFORMERS_SHARE, TRANSFORMERS_SHARE, SAMPLING_SHARE)
    merged = plan.suite.decoding.adapters == "merged"
    slower = 1.0 if rate is None or rate.unwidened is None else min(1.0, rate.unwidened / rate.operations)
    answering = MERGED_SHARE if merged else KERNELS_SHARE
    return Shares(TRAINING_SHARE, slower * answering, slower * MERGED_SHARE, SAMPLING_SHARE)


def opening_seconds(plan: Plan, device: Device) -> tuple[float, float]:
    """Return the times in which the answering engine and a training process open; 0 where they were not measured."""
    if device.kind != "cpu":
        return 0.0, 0.0
    return ENGINE_SECONDS if plan.generator.startswith("vllm") else 0.0, PROCESS_SECONDS
