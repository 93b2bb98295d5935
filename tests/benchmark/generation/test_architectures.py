"""Adapters on architectures other than Llama, in both engines, against PEFT's own forward pass."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from benchmark.generation.base import Engine, Request
from benchmark.generation.canary import Canary, check_canary
from benchmark.generation.settings import EngineSettings
from benchmark.generation.transformers_engine import TransformersEngine
from benchmark.generation.vllm_engine import VllmEngine
from benchmark.suites.settings import Adapters

from .tiny_model import VOCABULARY, peft_logprobs, save_random_adapter, save_random_model

SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
}
GROUPED = {**SHAPE, "num_key_value_heads": 1}
ARCHITECTURES = {
    "qwen2": (transformers.Qwen2Config, GROUPED, ["q_proj", "v_proj"]),
    "mistral": (transformers.MistralConfig, GROUPED, ["q_proj", "v_proj"]),
    "gpt_neox": (transformers.GPTNeoXConfig, SHAPE, ["query_key_value"]),
    "phi": (transformers.PhiConfig, SHAPE, ["q_proj", "v_proj", "fc1"]),
}


@pytest.fixture(scope="module", params=ARCHITECTURES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A random checkpoint of each architecture and an adapter on the usual layers."""
    root = tmp_path_factory.mktemp(request.param)
    config, shape, targets = ARCHITECTURES[request.param]
    base = save_random_model(root / "base", seed=0)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        transformers.AutoModelForCausalLM.from_config(config(**shape)).save_pretrained(base)
    return base, save_random_adapter(root / "adapter", base, seed=5, spread=0.05, rank=4, alpha=8, targets=targets)


def check(engine: Engine, base: Path, adapter: Path) -> None:
    sequences = [(1, 3, 9, token, 4, 7, 8) for token in range(10, 14)]
    without, applied = (peft_logprobs(base, a, sequences) for a in (None, adapter))
    canary = Canary(tuple(sequences), tuple(map(tuple, without)), tuple(map(tuple, applied)))
    check_canary(engine, adapter, canary, tolerance=1e-4)
    said = engine.generate([Request(sequence, 5, adapter, (7, 8)) for sequence in sequences])
    assert [answer.contrast_logprobs is not None for answer in said] == [True] * 4


@pytest.mark.parametrize("adapters", ["lora", "merged"])
def test_transformers_applies_adapters(model: tuple[Path, Path], adapters: Adapters) -> None:
    with TransformersEngine(model[0], EngineSettings(adapters=adapters), device="cpu") as engine:
        check(engine, *model)


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.parametrize("adapters", ["lora", "merged"])
def test_vllm_applies_adapters(model: tuple[Path, Path], adapters: Adapters) -> None:
    with VllmEngine(model[0], EngineSettings(max_batch=8, max_loras=1, adapters=adapters)) as engine:
        check(engine, *model)
    # The class is still transformers' own: a further model of it can be made in this process.
    with TransformersEngine(model[0], device="cpu") as engine:
        check(engine, *model)
