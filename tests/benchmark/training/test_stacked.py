"""Stacked training equals training each client alone with PEFT."""

from __future__ import annotations

import copy
import random

import pytest
import torch
from peft import PeftModel
from transformers import (
    AutoModelForCausalLM,
    GPTNeoXConfig,
    LlamaConfig,
    PreTrainedModel,
    Qwen2Config,
)

from benchmark.models.lora import adapter_layout, export_peft, import_peft, initial_adapter
from benchmark.models.rows import TokenRow
from benchmark.suites.settings import LoraSettings
from benchmark.training.sequential import SequentialModel
from benchmark.training.stacked import StackedModel

CONFIGS = {
    "llama": LlamaConfig(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        tie_word_embeddings=True,
    ),
    "qwen2": Qwen2Config(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    ),
    "gpt_neox": GPTNeoXConfig(
        vocab_size=97, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2
    ),
}


def make_model(architecture: str, dtype: torch.dtype) -> PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = AutoModelForCausalLM.from_config(CONFIGS[architecture], attn_implementation="eager")
    return model.to(dtype)


def make_batches(clients: int, steps: int, rows: int) -> list[list[list[TokenRow]]]:
    rng = random.Random(3)

    def row() -> TokenRow:
        length = rng.randint(6, 15)
        return TokenRow(tuple(rng.randrange(3, 97) for _ in range(length)), rng.randint(1, length - 2))

    return [[[row() for _ in range(rows)] for _ in range(steps)] for _ in range(clients)]


def start_adapter(model: PreTrainedModel, settings: LoraSettings, dtype: torch.dtype) -> torch.Tensor:
    layout = adapter_layout(model, settings)
    flat = initial_adapter(layout, torch.Generator().manual_seed(1))
    noise = torch.randn(layout.dimension, generator=torch.Generator().manual_seed(2)) * 0.02
    return (flat + noise).to(dtype)


@pytest.mark.parametrize("architecture", sorted(CONFIGS))
@pytest.mark.parametrize("clip_norm", [None, 0.05])
@pytest.mark.parametrize("rows", [1, 8])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_a_round_equals_sequential_peft(
    architecture: str, clip_norm: float | None, rows: int, dtype: torch.dtype, tolerance: float
) -> None:
    settings = LoraSettings(rank=4, alpha=8)
    model = make_model(architecture, dtype)
    start = start_adapter(model, settings, dtype)
    batches = make_batches(clients=3, steps=10, rows=rows)
    rates = [4e-3 * (1 - step / 20) for step in range(10)]
    alone = SequentialModel(copy.deepcopy(model), settings, pad_id=0).train(
        start, batches, learning_rate=rates, clip_norm=clip_norm, weight_decay=0.01
    )
    together = StackedModel(model, settings, pad_id=0).train(
        start, batches, learning_rate=rates, clip_norm=clip_norm, weight_decay=0.01
    )
    assert together.adapters.dtype == dtype
    assert (together.adapters - start).abs().max() > 1e-3
    torch.testing.assert_close(together.adapters, alone.adapters, rtol=0, atol=tolerance)
    torch.testing.assert_close(together.losses, alone.losses, rtol=0, atol=tolerance)


def test_named_targets_adapt_only_those_layers() -> None:
    model = make_model("llama", torch.float32)
    layout = adapter_layout(model, LoraSettings(rank=2, alpha=4, targets=("q_proj", "v_proj")))
    assert {name.rpartition(".")[0].rpartition(".")[2] for name in layout.names} == {"q_proj", "v_proj"}
    assert layout.dimension == 2 * 2 * (2 * 32 + 32 * 2)


def test_a_client_does_not_depend_on_its_companions() -> None:
    settings = LoraSettings(rank=4, alpha=8)
    model = make_model("llama", torch.float64)
    start = start_adapter(model, settings, torch.float64)
    batches = make_batches(clients=4, steps=3, rows=2)
    stacked = StackedModel(model, settings, pad_id=0)
    together = stacked.train(start, batches, learning_rate=1e-3)
    reversed_order = stacked.train(start, batches[::-1], learning_rate=1e-3)
    torch.testing.assert_close(together.adapters, reversed_order.adapters.flip(0), rtol=0, atol=1e-12)


def test_base_weights_stay_frozen_and_detached_model_is_the_base() -> None:
    settings = LoraSettings(rank=4, alpha=8)
    model = make_model("llama", torch.float32)
    ids = torch.tensor([[5, 6, 7, 8]])
    before = model(ids).logits
    start = start_adapter(model, settings, torch.float32)
    stacked = StackedModel(model, settings, pad_id=0)
    stacked.train(start, make_batches(2, 2, 2), learning_rate=1e-2)
    assert torch.equal(model(ids).logits, before)


def test_exported_adapter_gives_peft_the_same_logits(tmp_path) -> None:
    settings = LoraSettings(rank=4, alpha=8)
    model = make_model("llama", torch.float32)
    adapter = start_adapter(model, settings, torch.float32)
    plain = copy.deepcopy(model)
    stacked = StackedModel(model, settings, pad_id=0)
    export_peft(adapter, stacked.layout, settings, "micro", tmp_path / "adapter")
    assert torch.equal(import_peft(tmp_path / "adapter", stacked.layout), adapter)
    stacked.attach(adapter)
    ids = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
    with torch.no_grad():
        ours = model(ids).logits
        theirs = PeftModel.from_pretrained(plain, tmp_path / "adapter")(ids).logits
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    assert (ours - make_model("llama", torch.float32)(ids).logits).abs().max() > 1e-4
