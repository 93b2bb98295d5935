"""Predicted operations and bytes against what training really does, counted by PyTorch."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from transformers import GPTNeoXConfig, LlamaConfig, LlamaForCausalLM

from benchmark.errors import UsageError
from benchmark.models.configuration import read_decoder
from benchmark.models.rows import TokenRow
from benchmark.models.sizes import Decoder, decoder_of
from benchmark.prediction.step import Step, activation_bytes, adapter_state_bytes, training_operations
from benchmark.suites.settings import LoraSettings
from benchmark.training.stacked import StackedModel
from tasks.model_source import ModelShape

Batches = list[list[list[TokenRow]]]

WIDE = ModelShape(layers=4, hidden=288, intermediate=768, heads=6, kv_heads=2, vocabulary=700)
"""Layers too large for clients' weights to be merged."""
NARROW = ModelShape(layers=2, hidden=64, intermediate=160, heads=4, kv_heads=4, vocabulary=300, tied_embeddings=True)
WORDY = ModelShape(layers=2, hidden=64, intermediate=160, heads=4, kv_heads=4, vocabulary=12_000)
"""Logits outweigh everything else."""

Q_V = LoraSettings(rank=4, alpha=8, targets=("q_proj", "v_proj"))
ALL = LoraSettings(rank=4, alpha=8, targets="all-linear")
DROPPED = Q_V.model_copy(update={"dropout": 0.1})
LATE = LoraSettings(rank=4, alpha=8, targets=("o_proj", "down_proj"))

UNEVEN = [[(40, 12), (33, 20), (9, 4)], [(17, 16), (25, 3), (40, 39)]]
"""Length and start of the answer of each client's rows; clients differ in tokens with loss."""
EVEN = [[(48, 16)] * 4] * 3


def open_model(shape: ModelShape, *, checkpointing: bool = False, dtype: str = "float32") -> LlamaForCausalLM:
    config = LlamaConfig(
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        vocab_size=shape.vocabulary,
        tie_word_embeddings=shape.tied_embeddings,
        attn_implementation="sdpa",
    )
    model = LlamaForCausalLM(config).eval().to(getattr(torch, dtype))
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False, "preserve_rng_state": False})
        model.disable_input_require_grads()
    return model


def batches(rows: list[list[tuple[int, int]]], steps: int = 1) -> Batches:
    return [[[TokenRow(tuple(range(1, length + 1)), start) for length, start in own]] * steps for own in rows]


def step_of(rows: list[list[tuple[int, int]]]) -> Step:
    width = max(length for own in rows for length, _ in own)
    losses = [sum(length - start for length, start in own) for own in rows]
    return Step(len(rows), len(rows[0]), width, max(losses), sum(losses))


def training(model: Any, lora: LoraSettings, rows: Batches, *, lean: bool = False) -> Callable[[], object]:
    stacked = StackedModel(model, lora, 0, lean=lean)
    start = torch.zeros(stacked.layout.dimension)
    work = lambda: stacked.train(start, rows, learning_rate=1e-3, dropout_seed=1)  # noqa: E731
    work()
    return work


def counted_operations(work: Callable[[], object]) -> float:
    # PyTorch counts no attention on a processor; half of the square is what a causal mask leaves.
    def forward(query: torch.Size, *args: Any, **kwargs: Any) -> int:
        return 2 * query[0] * query[1] * query[2] ** 2 * query[3]

    def backward(gradient: torch.Size, *args: Any, **kwargs: Any) -> int:
        return 2 * forward(gradient)

    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    with FlopCounterMode(display=False, custom_mapping={flash: forward, flash_backward: backward}) as counter:
        work()
    return float(counter.get_total_flops())


def peak_bytes(work: Callable[[], object]) -> int:
    """Return the most that ``work`` holds at a time, as PyTorch's allocator reports it."""
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    now = peak = 0
    for event in profiler.profiler.kineto_results.events():  # type: ignore[union-attr]
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return peak


def predicted_bytes(
    decoder: Decoder, lora: LoraSettings, step: Step, dtype: str, *, checkpointing: bool, lean: bool
) -> int:
    activations = activation_bytes(decoder, lora, step, dtype, checkpointing=checkpointing, lean=lean)
    return adapter_state_bytes(decoder, lora, step.clients) + activations


@pytest.mark.parametrize("shape", [WIDE, NARROW])
@pytest.mark.parametrize("lora", [Q_V, ALL])
def test_sizes_are_those_of_the_model(shape: ModelShape, lora: LoraSettings) -> None:
    model, decoder = open_model(shape), decoder_of(shape)
    assert decoder.parameters == sum(p.numel() for p in model.parameters())
    assert decoder.weight_bytes("bfloat16") == 2 * decoder.parameters
    assert decoder.adapter_parameters(lora) == StackedModel(model, lora, 0).layout.dimension


@pytest.mark.parametrize("rows", [UNEVEN, EVEN], ids=["uneven", "even"])
@pytest.mark.parametrize("lora", [Q_V, ALL, DROPPED, LATE], ids=["q,v", "all", "dropout", "late"])
@pytest.mark.parametrize("shape", [WIDE, NARROW], ids=["wide", "narrow"])
@pytest.mark.parametrize("lean", [False, True], ids=["plain", "lean"])
def test_operations_are_predicted_within_five_percent(
    shape: ModelShape, lora: LoraSettings, rows: list[list[tuple[int, int]]], lean: bool
) -> None:
    counted = counted_operations(training(open_model(shape), lora, batches(rows), lean=lean))
    predicted = training_operations(decoder_of(shape), lora, step_of(rows), lean=lean)
    assert predicted.executed == pytest.approx(counted, rel=0.05)


def test_lean_training_predicts_the_scores_of_long_rows() -> None:
    rows = [[(300, 200)] * 2] * 2
    counted = counted_operations(training(open_model(WIDE), ALL, batches(rows), lean=True))
    assert training_operations(decoder_of(WIDE), ALL, step_of(rows), lean=True).executed == pytest.approx(
        counted, rel=0.05
    )


@pytest.mark.parametrize("rows", [UNEVEN, EVEN], ids=["uneven", "even"])
@pytest.mark.parametrize("lora", [Q_V, ALL], ids=["q,v", "all"])
def test_recomputed_operations_are_predicted_and_counted_apart(
    lora: LoraSettings, rows: list[list[tuple[int, int]]]
) -> None:
    plain = counted_operations(training(open_model(WIDE), lora, batches(rows)))
    again = counted_operations(training(open_model(WIDE, checkpointing=True), lora, batches(rows)))
    predicted = training_operations(decoder_of(WIDE), lora, step_of(rows), checkpointing=True)
    assert predicted.useful == pytest.approx(plain, rel=0.05)
    assert predicted.recomputed == pytest.approx(again - plain, rel=0.05)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize(
    ("dtype", "lean"),
    [("float32", False), ("bfloat16", False), ("bfloat16", True)],
    ids=["float32", "bfloat16", "lean"],
)
@pytest.mark.parametrize(
    ("shape", "lora", "rows"),
    [(WIDE, Q_V, EVEN), (WIDE, ALL, UNEVEN), (WIDE, DROPPED, EVEN), (NARROW, ALL, EVEN), (WORDY, Q_V, UNEVEN)],
    ids=["q,v", "all-uneven", "dropout", "narrow", "logits-uneven"],
)
def test_peak_memory_is_predicted_within_a_quarter(
    shape: ModelShape,
    lora: LoraSettings,
    rows: list[list[tuple[int, int]]],
    dtype: str,
    lean: bool,
    checkpointing: bool,
) -> None:
    model = open_model(shape, checkpointing=checkpointing, dtype=dtype)
    # The optimizer's moments come with the first step.
    measured = peak_bytes(training(model, lora, batches(rows, steps=2), lean=lean))
    predicted = predicted_bytes(decoder_of(shape), lora, step_of(rows), dtype, checkpointing=checkpointing, lean=lean)
    assert predicted == pytest.approx(measured, rel=0.25)


def test_recomputing_keeps_less_and_computes_more() -> None:
    shape = WIDE.model_copy(update={"layers": 16})
    decoder, step = decoder_of(shape), step_of(EVEN)
    kept = activation_bytes(decoder, Q_V, step, "float32")
    assert activation_bytes(decoder, Q_V, step, "float32", checkpointing=True) < kept / 4
    assert training_operations(decoder, Q_V, step).recomputed == 0


@pytest.mark.parametrize("lora", [Q_V, ALL, DROPPED], ids=["q,v", "all", "dropout"])
def test_lean_passes_keep_less(lora: LoraSettings) -> None:
    decoder, step = decoder_of(WIDE), step_of(EVEN)
    plain, lean = (activation_bytes(decoder, lora, step, "bfloat16", lean=way) for way in (False, True))
    assert lean < plain


def test_the_paper_model_has_the_paper_adapter() -> None:
    llama = ModelShape(layers=32, hidden=4096, intermediate=11_008, heads=32, kv_heads=32, vocabulary=32_000)
    decoder = decoder_of(llama)
    assert decoder.parameters == 6_738_415_616
    assert decoder.adapter_parameters(LoraSettings(rank=32, alpha=64, targets=("q_proj", "v_proj"))) == 16_777_216
    assert decoder.weight_bytes("bfloat16", "8bit") < 0.55 * decoder.weight_bytes("bfloat16")
    assert decoder.weight_bytes("bfloat16", "4bit") < 0.31 * decoder.weight_bytes("bfloat16")


def test_a_configuration_alone_is_enough(tmp_path: Path) -> None:
    open_model(WIDE).config.save_pretrained(tmp_path)
    assert read_decoder(tmp_path) == decoder_of(WIDE)


def test_other_architectures_are_read_from_their_configuration(tmp_path: Path) -> None:
    config = GPTNeoXConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4, vocab_size=90
    )
    config.architectures = ["GPTNeoXForCausalLM"]
    config.save_pretrained(tmp_path)
    decoder = read_decoder(tmp_path)
    assert [(x.name, x.inputs, x.outputs, x.reads) for x in decoder.linears] == [
        ("query_key_value", 64, 192, "block"),
        ("dense", 64, 64, "attention"),
        ("dense_h_to_4h", 64, 128, "feed"),
        ("dense_4h_to_h", 128, 64, "inner"),
    ]
    assert not decoder.gated


def test_a_folder_without_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="give the folder of a checkpoint"):
        read_decoder(tmp_path)


def test_an_unknown_target_is_refused() -> None:
    with pytest.raises(UsageError, match="'query_key_value' matches no linear layer"):
        decoder_of(WIDE).adapted(LoraSettings(rank=1, alpha=1, targets=("query_key_value",)))
