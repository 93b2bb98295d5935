"""On every common architecture, training stacked equals training with PEFT, and adapters go both ways."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from benchmark.errors import UsageError
from benchmark.models.lora import adapter_layout, export_peft, import_peft, target_layers
from benchmark.suites.settings import LoraSettings
from benchmark.training.sequential import SequentialModel
from benchmark.training.stacked import StackedModel
from tests.benchmark.tiny_models import ATTENTION_TARGETS, CONFIGS, LAYERS, make_batches, make_model, start_adapter

IDS = torch.tensor([[5, 6, 7, 8, 9], [10, 11, 12, 13, 14]])

every_architecture = pytest.mark.parametrize("architecture", sorted(CONFIGS))


def settings_of(architecture: str, targets: str, **more: float) -> LoraSettings:
    chosen = ATTENTION_TARGETS[architecture] if targets == "attention" else targets
    return LoraSettings(rank=4, alpha=8, targets=chosen, **more)


@torch.no_grad()
def logits(model: PreTrainedModel | PeftModel) -> torch.Tensor:
    return model(IDS).logits


@every_architecture
@pytest.mark.parametrize("targets", ["attention", "all-linear"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_stacked_equals_sequential(architecture: str, targets: str, dropout: float) -> None:
    settings = settings_of(architecture, targets, dropout=dropout)
    model = make_model(architecture)
    start = start_adapter(model, settings)
    batches = make_batches(clients=3, steps=3, rows=3)
    options = {"learning_rate": [4e-3, 3e-3, 2e-3], "clip_norm": 1.0, "weight_decay": 0.01, "dropout_seed": 5}
    alone = SequentialModel(copy.deepcopy(model), settings, pad_id=0).train(start, batches, **options)
    together = StackedModel(model, settings, pad_id=0).train(start, batches, **options)
    assert (together.adapters - start).abs().max() > 1e-3
    torch.testing.assert_close(together.adapters, alone.adapters, rtol=0, atol=1e-9)
    torch.testing.assert_close(together.losses, alone.losses, rtol=0, atol=1e-9)


@every_architecture
def test_fused_attention_trains_as_explicit_attention_does(architecture: str) -> None:
    settings = settings_of(architecture, "attention")
    explicit, fused = make_model(architecture), make_model(architecture, attention="sdpa")
    start = start_adapter(explicit, settings)
    batches = make_batches(clients=2, steps=2, rows=3)
    expected = StackedModel(explicit, settings, pad_id=0).train(start, batches, learning_rate=4e-3)
    found = StackedModel(fused, settings, pad_id=0).train(start, batches, learning_rate=4e-3)
    # Transformers' explicit attention takes its softmax in float32, whatever the model's precision.
    torch.testing.assert_close(found.adapters, expected.adapters, rtol=0, atol=2e-5)


@every_architecture
def test_all_linear_means_every_linear_layer_but_the_head(architecture: str) -> None:
    layers = target_layers(make_model(architecture), settings_of(architecture, "all-linear"))
    assert sorted({path.rpartition(".")[2] for path in layers}) == LAYERS[architecture]


@every_architecture
def test_a_wrong_target_is_told_the_models_layers(architecture: str) -> None:
    settings = LoraSettings(rank=4, alpha=8, targets=("qkv",))
    with pytest.raises(UsageError, match=f"'qkv' matches no linear layer.*{', '.join(LAYERS[architecture])}"):
        StackedModel(make_model(architecture), settings, pad_id=0)


def test_a_model_without_linear_layers_is_refused() -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=11, n_embd=8, n_layer=1, n_head=2, n_positions=16))
    with pytest.raises(UsageError, match="GPT2LMHeadModel has no linear layers"):
        adapter_layout(model, LoraSettings(rank=2, alpha=4))


@every_architecture
@pytest.mark.parametrize("targets", ["attention", "all-linear"])
def test_an_export_gives_plain_peft_the_same_logits(architecture: str, targets: str, tmp_path: Path) -> None:
    settings = settings_of(architecture, targets, dropout=0.05)
    model = make_model(architecture, torch.float32)
    plain, base = copy.deepcopy(model), logits(model)
    adapter = start_adapter(model, settings, torch.float32, noise=0.2)
    stacked = StackedModel(model, settings, pad_id=0)
    export_peft(adapter, stacked.layout, settings, architecture, tmp_path / "adapter")
    stacked.attach(adapter)
    theirs = logits(PeftModel.from_pretrained(plain, tmp_path / "adapter"))
    torch.testing.assert_close(logits(model), theirs, rtol=0, atol=2e-5)
    assert (theirs - base).abs().max() > 1e-2
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    expected = LAYERS[architecture] if targets == "all-linear" else sorted(ATTENTION_TARGETS[architecture])
    assert config["target_modules"] == expected
    assert config["lora_dropout"] == 0.05


@every_architecture
@pytest.mark.parametrize("targets", ["attention", "all-linear"])
def test_an_adapter_of_peft_gives_the_same_logits_here(architecture: str, targets: str, tmp_path: Path) -> None:
    settings = settings_of(architecture, targets)
    model = make_model(architecture, torch.float32)
    chosen = settings.targets if isinstance(settings.targets, str) else list(settings.targets)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        config = LoraConfig(r=4, lora_alpha=8, target_modules=chosen, init_lora_weights=False, task_type="CAUSAL_LM")
        theirs = get_peft_model(copy.deepcopy(model), config).eval()
    theirs.save_pretrained(tmp_path)
    stacked = StackedModel(model, settings, pad_id=0)
    base = logits(model)
    stacked.attach(import_peft(tmp_path, stacked.layout, settings))
    torch.testing.assert_close(logits(model), logits(theirs), rtol=0, atol=2e-5)
    assert (logits(theirs) - base).abs().max() > 1e-2
