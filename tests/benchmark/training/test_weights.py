"""Weights before the federation: read from checkpoints, with the alignment's product where an adapter aligns."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmark.errors import FedSafetyError
from benchmark.models.lora import adapter_layout
from benchmark.suites.settings import LoraSettings
from benchmark.training.weights import CheckpointWeights, WeightsBefore

from .test_stacked import make_model, start_adapter

LAYER = "model.layers.0.self_attn.q_proj"
SETTINGS = LoraSettings(rank=4, alpha=8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_model("llama", torch.float32).save_pretrained(tmp_path / "start", max_shard_size="40KB")
    assert len(list((tmp_path / "start").glob("*.safetensors"))) > 1
    return tmp_path / "start"


def test_a_layer_is_found_in_any_shard(folder: Path) -> None:
    weights = CheckpointWeights(lambda: folder)
    for name, parameter in make_model("llama", torch.float32).named_parameters():
        if "proj" in name:
            assert torch.equal(weights.of(name.removesuffix(".weight")), parameter)


def test_a_missing_layer_is_named(folder: Path) -> None:
    with pytest.raises(FedSafetyError, match=r"no tensor 'model\.layers\.9\.mlp\.weight'"):
        CheckpointWeights(lambda: folder).of("model.layers.9.mlp")


def test_the_alignments_product_is_the_difference(folder: Path) -> None:
    model = make_model("llama", torch.float32)
    adapter, layout = start_adapter(model, SETTINGS, torch.float32), adapter_layout(model, SETTINGS)
    before = WeightsBefore(CheckpointWeights(lambda: folder), None, lambda: adapter, layout, SETTINGS.scaling)
    assert before.differ
    views = layout.views(adapter)
    difference = before.of(LAYER, aligned=True) - before.of(LAYER, aligned=False)
    expected = 2.0 * views[f"{LAYER}.lora_B"] @ views[f"{LAYER}.lora_A"]
    torch.testing.assert_close(difference, expected, rtol=1e-4, atol=1e-6)


def test_two_checkpoints_are_kept_apart(folder: Path, tmp_path: Path) -> None:
    model = make_model("llama", torch.float32)
    layout = adapter_layout(model, SETTINGS)
    model.get_submodule(LAYER).weight.data.zero_()
    model.save_pretrained(tmp_path / "raw")
    before = WeightsBefore(
        CheckpointWeights(lambda: folder), CheckpointWeights(lambda: tmp_path / "raw"), None, layout, 2.0
    )
    assert before.differ
    assert before.of(LAYER, aligned=False).count_nonzero() == 0
    assert before.of(LAYER, aligned=True).count_nonzero() > 0
    assert not WeightsBefore(CheckpointWeights(lambda: folder), None, None, layout, 2.0).differ
