"""vLLM holds quantised weights as training does."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from benchmark.errors import FedSafetyError
from benchmark.generation.checkpoints import read_checkpoint
from benchmark.generation.rounding import rounded, rounding_obstacle
from benchmark.generation.select import EngineChoice, open_engine
from benchmark.generation.settings import EngineSettings

from .tiny_model import TinyModel, peft_logprobs


def test_eight_bits_are_127_steps_on_either_side_of_zero() -> None:
    weight = torch.tensor([[1.27, -0.634, 0.006, 0.004], [0.0, 0.0, 0.0, 0.0], [-254.0, 3.1, 2.9, 127.0]])
    expected = torch.tensor([[1.27, -0.63, 0.01, 0.0], [0.0, 0.0, 0.0, 0.0], [-254.0, 4.0, 2.0, 128.0]])
    torch.testing.assert_close(rounded(weight, "8bit", torch.float32), expected, rtol=1e-3, atol=1e-4)


def test_rounding_twice_changes_nothing() -> None:
    weight = torch.randn(8, 32, generator=torch.Generator().manual_seed(0))
    once = rounded(weight, "8bit", torch.float32)
    assert (once - weight).abs().max() > 1e-3
    torch.testing.assert_close(rounded(once, "8bit", torch.float32), once, rtol=1e-3, atol=0)


def save_rounded(base: Path, folder: Path) -> Path:
    """Save a checkpoint whose linear layers are rounded to 8 bits."""
    shutil.copytree(base, folder)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with torch.no_grad():
        for name in read_checkpoint(base).linear_layers:
            weight = model.get_parameter(f"{name}.weight")
            weight.copy_(rounded(weight, "8bit", torch.float32))
    model.save_pretrained(folder)
    return folder


@pytest.mark.vllm
def test_vllm_answers_with_rounded_weights(tiny: TinyModel, tmp_path: Path) -> None:
    reference = save_rounded(tiny.folder, tmp_path / "rounded")
    sequences = list(tiny.prompts[:4])
    choice = EngineChoice("vllm", "asked")
    with open_engine(choice, tiny.folder, EngineSettings(quantization="8bit", max_batch=8, max_loras=1)) as engine:
        assert engine.quantization == "8bit"
        for adapter in (None, tiny.adapters[0]):
            plain = peft_logprobs(tiny.folder, adapter, sequences)
            for found, expected, other in zip(
                engine.logprobs(sequences, adapter), peft_logprobs(reference, adapter, sequences), plain, strict=True
            ):
                assert found == pytest.approx(expected, abs=1e-4)
                assert found != pytest.approx(other, abs=1e-2)


@pytest.mark.vllm
def test_what_vllm_cannot_hold_is_refused_when_it_was_asked_for(
    tiny: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = EngineChoice("vllm", "asked")
    with pytest.raises(FedSafetyError, match=r"8bit weights that were trained on: .*worker processes"):
        open_engine(asked, tiny.folder, EngineSettings(quantization="8bit", tensor_parallel=2))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(FedSafetyError, match=r"4bit weights that were trained on: .*bitsandbytes"):
        open_engine(asked, tiny.folder, EngineSettings(quantization="4bit"))


def test_nothing_stands_in_the_way_of_plain_weights() -> None:
    assert rounding_obstacle("", 8) is None
    assert rounding_obstacle("8bit", 1) is None
