"""Speed of training large models, beside sequential PEFT: ``python -m benchmark.speed.gpu_benchmark``.

A Llama of random weights, by default of Llama-2-7B's shape, is made on the device, and one federated round is timed at
the seed paper's settings: stacked, and client after client in a bare PEFT loop and by Hugging Face's ``Trainer``. The
matrix rate is measured in the same run; operations count as useful if they belong to the forward and backward pass,
recomputation does not. On a processor each way has a process of its own, and the table shows that process's peak of
resident memory.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import statistics
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from benchmark.errors import FedSafetyError, UsageError
from benchmark.execution.worker import keep_freed_memory
from benchmark.generation.needs import Device, this_device
from benchmark.models.lora import initial_adapter
from benchmark.models.memory import out_of_memory
from benchmark.models.rows import TokenRow
from benchmark.models.sizes import decoder_of
from benchmark.prediction.device import Rate, measure_rate
from benchmark.prediction.step import Step, training_operations
from benchmark.prediction.text import rough_duration
from benchmark.records.environment import package_versions
from benchmark.speed.gpu_trainers import PeftLoop, PlainRound, StackedRound, Trainer, TrainerLoop, random_llama
from benchmark.suites.settings import LoraSettings
from tasks.model_source import ModelShape

_ROUNDS_OF_A_CELL = 100
"""Rounds of the seed paper, to which one round is extrapolated."""

_LARGEST_ON_CPU = 100_000_000
"""Parameters beyond which a processor would take too long."""

_PEER = "sequential PEFT"
_PLAIN = "stacked, plain passes"
_TRAINERS: dict[str, type[Trainer]] = {
    "stacked": StackedRound,
    _PLAIN: PlainRound,
    _PEER: PeftLoop,
    "Hugging Face Trainer": TrainerLoop,
}

_COLUMNS = (
    "base",
    "training",
    "seconds a round",
    "tokens/s",
    "share of the matrix rate",
    "peak memory",
    f"against {_PEER}",
    f"{_ROUNDS_OF_A_CELL} rounds, extrapolated",
)


@dataclass(frozen=True)
class Work:
    """One round: what is trained on what.

    Attributes:
        shape: Of the model.
        lora: Of the adapters.
        clients: Clients of a round.
        steps: Optimizer steps of each.
        rows: Rows of a step of each.
        tokens: Tokens of a row.
        loss_from: First token with loss.
        checkpointing: Whether activations are computed again.
        memory_gib: Budget of a stacked pass, or ``None`` for 80 % of what is free on a GPU.
    """

    shape: ModelShape
    lora: LoraSettings
    clients: int
    steps: int
    rows: int
    tokens: int
    loss_from: int
    checkpointing: bool
    memory_gib: float | None

    @property
    def tokens_a_round(self) -> int:
        """Tokens that are trained on in a round."""
        return self.clients * self.steps * self.rows * self.tokens

    def useful(self, dtype: str) -> float:
        """Return the useful operations of a round."""
        step = Step(self.clients, self.rows, self.tokens, self.rows * (self.tokens - self.loss_from))
        return self.steps * training_operations(decoder_of(self.shape), self.lora, step, dtype).useful

    def batches(self, steps: int) -> list[list[list[TokenRow]]]:
        """Return random rows of equal length, the same at every call."""
        rng = np.random.default_rng(0)
        size = (self.clients, steps, self.rows, self.tokens)
        ids = rng.integers(1, self.shape.vocabulary, size=size).tolist()
        return [[[TokenRow(tuple(row), self.loss_from) for row in step] for step in client] for client in ids]


@dataclass(frozen=True)
class Measured:
    """One line of the table.

    Attributes:
        mode: How clients are trained.
        weights: Format of the frozen base.
        seconds: Of a round, the median; ``None`` if it failed.
        peak_bytes: Largest memory on a GPU, or of the process on a processor; ``None`` where it is not counted.
        tokens_per_second: Of training.
        share: Of the matrix rate of the same run, in useful operations.
        failure: Why it failed; empty if it did not.
    """

    mode: str
    weights: str
    seconds: float | None
    peak_bytes: int | None
    tokens_per_second: float | None
    share: float | None
    failure: str = ""


def main(
    device: Annotated[str, typer.Option(help="auto, cuda or cpu; auto wants a GPU.")] = "auto",
    weights: Annotated[str, typer.Option(help="Formats of the base, with commas: bfloat16, float32, 8bit.")] = (
        "bfloat16,8bit"
    ),
    layers: Annotated[int, typer.Option(help="Decoder blocks.")] = 32,
    hidden: Annotated[int, typer.Option(help="Width of the residual stream.")] = 4096,
    intermediate: Annotated[int, typer.Option(help="Width of the feed-forward block.")] = 11_008,
    heads: Annotated[int, typer.Option(help="Attention heads.")] = 32,
    kv_heads: Annotated[int, typer.Option(help="Key-value heads; 0 for as many as heads.")] = 0,
    vocabulary: Annotated[int, typer.Option(help="Tokens.")] = 32_000,
    tied: Annotated[bool, typer.Option(help="Embedding and head are one.")] = False,
    rank: Annotated[int, typer.Option(help="LoRA rank.")] = 32,
    targets: Annotated[str, typer.Option(help="Adapted layers, with commas, or all-linear.")] = "q_proj,v_proj",
    dropout: Annotated[float, typer.Option(help="LoRA dropout.")] = 0.05,
    clients: Annotated[int, typer.Option(help="Clients of a round.")] = 3,
    steps: Annotated[int, typer.Option(help="Optimizer steps of a client.")] = 10,
    rows: Annotated[int, typer.Option(help="Rows of a step.")] = 16,
    tokens: Annotated[int, typer.Option(help="Tokens of a row.")] = 512,
    loss_from: Annotated[int, typer.Option(help="First token with loss.")] = 128,
    checkpointing: Annotated[bool, typer.Option(help="Compute activations again instead of keeping them.")] = False,
    memory_gib: Annotated[float, typer.Option(help="Budget of a stacked pass; 0: 80 % of the free memory.")] = 0.0,
    plain: Annotated[bool, typer.Option(help="Time stacked training without lean passes, too.")] = False,
    alone: Annotated[bool, typer.Option(help="On a processor, a process for each way counts its memory.")] = True,
    repeats: Annotated[int, typer.Option(help="Timed rounds of each; the median counts.")] = 3,
    output: Annotated[Path | None, typer.Option("--json", help="Where to write the numbers as JSON.")] = None,
) -> None:
    """Time federated rounds of a large model and print a Markdown table."""
    try:
        shape = ModelShape(
            layers=layers,
            hidden=hidden,
            intermediate=intermediate,
            heads=heads,
            kv_heads=kv_heads or heads,
            vocabulary=vocabulary,
            tied_embeddings=tied,
        )
        if hidden % heads or heads % (kv_heads or heads):
            raise UsageError(
                f"--hidden {hidden} is not a multiple of --heads {heads}, or these not of --kv-heads; choose sizes "
                f"that divide each other"
            )
        if loss_from >= tokens:
            raise UsageError(f"--loss-from {loss_from} leaves no token of {tokens} with loss; choose a smaller one")
        adapted: str | tuple[str, ...] = targets if targets == "all-linear" else tuple(targets.split(","))
        lora = LoraSettings(rank=rank, alpha=2.0 * rank, targets=adapted, dropout=dropout)
        work = Work(shape, lora, clients, steps, rows, tokens, loss_from, checkpointing, memory_gib or None)
        machine = _device(device, work)
        formats = _formats(weights)
        products = dict.fromkeys(map(_product, formats))
        long = 2.0 if machine.kind == "cuda" else 0.25
        rates = {product: measure_rate(product, machine, seconds=long) for product in products}
        measured = [
            _measure(mode, form, work, machine, rates[_product(form)], repeats, alone=alone)
            for form in formats
            for mode in _TRAINERS
            if plain or mode != _PLAIN
        ]
    except (FedSafetyError, ValueError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(getattr(error, "exit_status", 2)) from error
    for line in table_lines(work, list(rates.values()), measured):
        typer.echo(line)
    if output is not None:
        content = {
            "device": asdict(machine),
            "packages": package_versions(),
            "work": asdict(work) | {"shape": shape.model_dump(), "lora": lora.model_dump()},
            "rates": [asdict(rate) for rate in rates.values()],
            "measured": [asdict(line) for line in measured],
        }
        output.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def table_lines(work: Work, rates: Sequence[Rate], measured: Sequence[Measured]) -> list[str]:
    """Return the Markdown table with what it rests on."""
    peers = {line.weights: line.seconds for line in measured if line.mode == _PEER}
    parameters = decoder_of(work.shape).parameters
    device = ", ".join(sorted({rate.device for rate in rates}))
    measured_rates = ", ".join(f"{rate.dtype} {rate.operations / 1e12:.4g}" for rate in rates)
    what = (
        f"{device}: {parameters / 1e9:.3g} billion random weights; {work.clients} clients, {work.steps} steps, "
        f"{work.rows} rows a step, {work.tokens} tokens a row with loss from token {work.loss_from}; LoRA rank "
        f"{work.lora.rank}, dropout {work.lora.dropout:g}; recomputation {'on' if work.checkpointing else 'off'}."
    )
    lines = [
        what,
        f"Matrix rate measured in the same run, in tera-operations/s: {measured_rates}.",
        "",
        f"| {' | '.join(_COLUMNS)} |",
        f"|{'---|' * len(_COLUMNS)}",
    ]
    for line in measured:
        if line.seconds is None or line.tokens_per_second is None or line.share is None:
            lines.append(f"| {line.weights} | {line.mode} | failed: {line.failure} | | | | | |")
            continue
        peer = peers[line.weights]
        memory = "not counted" if line.peak_bytes is None else f"{line.peak_bytes / 2**30:.1f} GiB"
        ratio = "" if peer is None or line.mode == _PEER else f"{peer / line.seconds:.2f} x"
        lines.append(
            f"| {line.weights} | {line.mode} | {line.seconds:.4g} | {line.tokens_per_second:,.0f} | {line.share:.1%} | "
            f"{memory} | {ratio} | {rough_duration(_ROUNDS_OF_A_CELL * line.seconds)} |"
        )
    return lines


def _device(name: str, work: Work) -> Device:
    if name not in ("auto", "cuda", "cpu"):
        raise UsageError(f"unknown device {name!r}; choose auto, cuda or cpu")
    if name != "cpu" and not torch.cuda.is_available():
        raise UsageError(
            "there is no GPU here; to see the benchmark work on a processor, give a tiny shape, for example: "
            "--device cpu --weights float32 --layers 2 --hidden 64 --intermediate 128 --heads 4 --vocabulary 200 "
            "--rank 4 --steps 2 --rows 2 --tokens 32 --loss-from 8"
        )
    parameters = decoder_of(work.shape).parameters
    if name == "cpu" and parameters > _LARGEST_ON_CPU:
        raise UsageError(
            f"{parameters:,} parameters would take too long on a processor; give a shape of at most "
            f"{_LARGEST_ON_CPU:,} (--layers, --hidden, --intermediate, --heads, --vocabulary)"
        )
    machine = this_device()
    if name == "cpu" and machine.kind == "cuda":
        raise UsageError("--device cpu is for machines without a GPU; leave it out here")
    return machine


def _formats(text: str) -> list[str]:
    formats = [name.strip() for name in text.split(",") if name.strip()]
    for name in formats:
        if name not in ("bfloat16", "float32", "8bit"):
            raise UsageError(f"unknown format {name!r} of the base; choose among bfloat16, float32 and 8bit")
    if not formats:
        raise UsageError("--weights names no format; choose among bfloat16, float32 and 8bit")
    return formats


def _product(form: str) -> str:
    """Return the number format of products with a base of format ``form``."""
    return "bfloat16" if form == "8bit" else form


def _measure(mode: str, form: str, work: Work, device: Device, rate: Rate, repeats: int, *, alone: bool) -> Measured:
    timed = _timed_alone if alone and device.kind == "cpu" else _timed
    try:
        seconds, peak = timed(_TRAINERS[mode], form, work, device, repeats)
    except (FedSafetyError, RuntimeError, MemoryError) as error:
        if not isinstance(error, FedSafetyError) and not out_of_memory(error):
            raise
        said = (str(error).splitlines() or [type(error).__name__])[0]
        return Measured(mode, form, None, None, None, None, said)
    finally:
        gc.collect()
        if device.kind == "cuda":
            torch.cuda.empty_cache()
    share = work.useful(_product(form)) / seconds / rate.operations
    return Measured(mode, form, seconds, peak, work.tokens_a_round / seconds, share)


def _timed_alone(kind: type[Trainer], form: str, work: Work, device: Device, repeats: int) -> tuple[float, int | None]:
    """Return what :func:`_timed` returns in a fresh process, with that process's peak of resident memory."""
    if sys.platform == "linux":
        # The server imports once; its children start at once and have no threads yet.
        context: multiprocessing.context.BaseContext = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([TrainerLoop.__module__])
    else:
        context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_timed_and_weighed, kind, form, work, device, repeats).result()


def _timed_and_weighed(
    kind: type[Trainer], form: str, work: Work, device: Device, repeats: int
) -> tuple[float, int | None]:
    import resource  # not on every platform

    keep_freed_memory()
    seconds, _ = _timed(kind, form, work, device, repeats)
    unit = 1 if sys.platform == "darwin" else 1024
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _timed(kind: type[Trainer], form: str, work: Work, device: Device, repeats: int) -> tuple[float, int | None]:
    """Return the median seconds of a round and the peak memory, after a short round that is not counted."""
    model = random_llama(work.shape, device.kind, _product(form), checkpointing=work.checkpointing)
    budget = int(work.memory_gib * 2**30) if work.memory_gib else None
    trainer = kind(model, work.lora, eight_bit=form == "8bit", memory_bytes=budget)
    start = initial_adapter(trainer.layout, torch.Generator().manual_seed(0))
    trainer.round(start, work.batches(1))
    batches = work.batches(work.steps)
    if device.kind == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = [trainer.seconds(start, batches) for _ in range(max(1, repeats))]
    return statistics.median(seconds), torch.cuda.max_memory_allocated() if device.kind == "cuda" else None


if __name__ == "__main__":
    typer.run(main)
