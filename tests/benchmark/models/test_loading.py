"""Checkpoints open in any precision, frozen, and what cannot be opened is told in one clear error."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from benchmark.errors import FedSafetyError, UsageError
from benchmark.models import loading
from benchmark.models.loading import check_complete, load_causal_lm
from benchmark.suites.settings import LoraSettings
from benchmark.training.sequential import SequentialModel
from benchmark.training.stacked import LocalTraining, StackedModel
from tests.benchmark.tiny_models import make_batches, make_model, start_adapter

IDS = torch.tensor([[5, 6, 7, 8, 9], [10, 11, 12, 13, 14]])
SETTINGS = LoraSettings(rank=4, alpha=8, targets=("q_proj", "v_proj", "down_proj"))

quantised = pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    make_model("qwen2", torch.float32).save_pretrained(folder)
    return folder


@pytest.fixture
def copied(checkpoint: Path, tmp_path: Path) -> Path:
    for file in checkpoint.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


@torch.no_grad()
def logits(path: Path, rows: torch.Tensor = IDS, **options: str) -> torch.Tensor:
    return load_causal_lm(path, device="cpu", **options)(input_ids=rows).logits


def train(path: Path, kind: type[StackedModel] | type[SequentialModel], **options: object) -> LocalTraining:
    model = load_causal_lm(path, device="cpu", **options)  # type: ignore[arg-type]
    start = start_adapter(make_model("qwen2"), SETTINGS, torch.float32)
    batches = make_batches(clients=3, steps=4, rows=4)
    return kind(model, SETTINGS, pad_id=0).train(start, batches, learning_rate=4e-3)


def test_missing_tensors_are_found_without_reading_weights(copied: Path) -> None:
    pytest.importorskip("accelerate")
    check_complete(copied)
    path = copied / "model.safetensors"
    tensors = load_file(path)
    save_file({name: tensor for name, tensor in tensors.items() if "layers.1.mlp" not in name}, path, {"format": "pt"})
    with pytest.raises(FedSafetyError, match=r"is incomplete: it has no tensor 'model\.layers\.1\.mlp"):
        check_complete(copied)
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(FedSafetyError, match="cannot load the checkpoint"):
        check_complete(copied)


def test_it_opens_in_float32_as_transformers_does(checkpoint: Path) -> None:
    plain = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        assert torch.equal(logits(checkpoint), plain(IDS).logits)
    model = load_causal_lm(checkpoint)
    assert model.dtype == torch.float32
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(dtype: str, checkpoint: Path) -> None:
    model = load_causal_lm(checkpoint, dtype=dtype)
    assert model.dtype == getattr(torch, dtype)
    torch.testing.assert_close(logits(checkpoint, dtype=dtype).float(), logits(checkpoint), rtol=0, atol=2e-2)


def test_large_models_use_fused_attention(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_causal_lm(checkpoint, device="cpu").config._attn_implementation == "eager"
    monkeypatch.setattr(loading, "_LARGE", 1000)
    assert load_causal_lm(checkpoint, device="cpu").config._attn_implementation == "sdpa"


def test_gradient_checkpointing_is_asked_for_here(checkpoint: Path) -> None:
    assert not loading.recomputes(load_causal_lm(checkpoint))
    assert loading.recomputes(load_causal_lm(checkpoint, gradient_checkpointing=True))
    for kind in (StackedModel, SequentialModel):
        expected = train(checkpoint, kind)
        found = train(checkpoint, kind, gradient_checkpointing=True)
        torch.testing.assert_close(found.adapters, expected.adapters, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "int8"}, "unknown precision 'int8'.*float32, bfloat16, float16"),
        ({"quantization": "2bit"}, "unknown quantization '2bit'.*8bit, 4bit or none"),
    ],
)
def test_unknown_names(options: dict[str, str], message: str, checkpoint: Path) -> None:
    with pytest.raises(UsageError, match=message):
        load_causal_lm(checkpoint, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("package", ["bitsandbytes", "accelerate"])
def test_quantisation_without_its_library(package: str, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else object())
    with pytest.raises(UsageError, match=f"8bit needs {package}, which is not installed"):
        load_causal_lm(checkpoint, quantization="8bit")


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FedSafetyError, match=r"cannot load the checkpoint .*nowhere"):
        load_causal_lm(tmp_path / "nowhere")


def test_truncated_weights(copied: Path) -> None:
    weights = copied / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(FedSafetyError, match="cannot load the checkpoint"):
        load_causal_lm(copied)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_pointer_in_place_of_a_file_gets_its_own_way_out(name: str, copied: Path) -> None:
    (copied / name).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    with pytest.raises(
        FedSafetyError, match=f"{name} is a pointer of Git LFS .*; fetch the file with git lfs pull"
    ) as e:
        load_causal_lm(copied)
    assert "restore" not in str(e.value)


def test_a_missing_tensor_is_not_made_up(copied: Path) -> None:
    weights = copied / "model.safetensors"
    tensors = load_file(weights)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(FedSafetyError, match=r"incomplete: it has no tensor 'model\.layers\.1\.mlp\.up_proj\.weight'"):
        load_causal_lm(copied)


def test_weights_of_another_shape(copied: Path) -> None:
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(config | {"hidden_size": 64}))
    with pytest.raises(FedSafetyError, match="cannot load the checkpoint"):
        load_causal_lm(copied)


def test_a_pickle_is_not_opened(copied: Path) -> None:
    torch.save(load_file(copied / "model.safetensors"), copied / "pytorch_model.bin")
    (copied / "model.safetensors").unlink()
    with pytest.raises(FedSafetyError, match="cannot load the checkpoint"):
        load_causal_lm(copied)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 13.00 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)
def test_a_checkpoint_that_is_too_large(error: Exception, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", full)
    with pytest.raises(FedSafetyError, match=r"does not fit into memory.*quantization"):
        load_causal_lm(checkpoint)


@quantised
@pytest.mark.parametrize(("quantization", "error"), [("8bit", 0.02), ("4bit", 0.3)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_quantised_weights(quantization: str, error: float, dtype: str, checkpoint: Path) -> None:
    exact = logits(checkpoint)
    found = logits(checkpoint, dtype=dtype, quantization=quantization).float()
    assert 0 < (found - exact).norm() / exact.norm() < error


@quantised
@pytest.mark.parametrize("quantization", ["8bit", "4bit"])
def test_a_quantised_rows_answer_does_not_depend_on_its_companions(quantization: str, checkpoint: Path) -> None:
    together = logits(checkpoint, quantization=quantization)
    torch.testing.assert_close(logits(checkpoint, IDS[:1], quantization=quantization), together[:1], rtol=0, atol=1e-6)


@quantised
@pytest.mark.parametrize("quantization", ["8bit", "4bit"])
def test_stacked_equals_sequential_on_quantised_weights(quantization: str, checkpoint: Path) -> None:
    together = train(checkpoint, StackedModel, quantization=quantization)
    alone = train(checkpoint, SequentialModel, quantization=quantization)
    torch.testing.assert_close(together.adapters, alone.adapters, rtol=0, atol=1e-4)
    exact = train(checkpoint, StackedModel)
    start = start_adapter(make_model("qwen2"), SETTINGS, torch.float32)
    towards = torch.cosine_similarity(together.adapters - start, exact.adapters - start)
    assert towards.min() > (0.95 if quantization == "8bit" else 0.5)


@quantised
def test_gradients_through_quantised_weights_are_those_of_the_weights(checkpoint: Path) -> None:
    """Even after an evaluation, which makes bitsandbytes' CPU kernels pack the weights anew."""
    for quantization in ("8bit", "4bit"):
        model = load_causal_lm(checkpoint, quantization=quantization, device="cpu")
        layer = model.model.layers[0].mlp.down_proj
        with torch.no_grad():
            model(input_ids=IDS)
            weight = layer(torch.eye(48)).T
        x = torch.randn(3, 48, generator=torch.Generator().manual_seed(0), requires_grad=True)
        layer(x).square().sum().backward()
        expected = 2 * (x.detach() @ weight.T) @ weight
        assert math.isfinite(float(expected.norm()))
        torch.testing.assert_close(x.grad, expected, rtol=1e-3, atol=1e-3)
