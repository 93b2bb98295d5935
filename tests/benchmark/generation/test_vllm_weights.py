"""Weights inside vLLM: what its layers compute with, packed for a processor or as they are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmark.errors import FedSafetyError
from benchmark.generation.adapters import read_adapter
from benchmark.generation.base import Engine, Request
from benchmark.generation.canary import Canary, check_canaries
from benchmark.generation.checkpoints import read_checkpoint
from benchmark.generation.merging import merged_weight
from benchmark.generation.settings import EngineSettings
from benchmark.generation.vllm_engine import VllmEngine
from benchmark.models.configuration import read_decoder

from .tiny_model import TinyModel, peft_logprobs, save_random_adapter

FUSED = {"self_attn.qkv_proj": ("q_proj", "k_proj", "v_proj"), "mlp.gate_up_proj": ("gate_proj", "up_proj")}
PLAIN = ("self_attn.o_proj", "mlp.down_proj")

pytestmark = pytest.mark.vllm


@pytest.fixture(
    scope="module",
    params=[("float32", True), ("bfloat16", True), pytest.param(("bfloat16", False), marks=pytest.mark.slow)],
    ids=lambda form: f"{form[0]}-{'packed' if form[1] else 'plain'}",
)
def merging(request: pytest.FixtureRequest, tiny: TinyModel) -> Iterator[VllmEngine]:
    """An engine whose layers pack their weights, and one whose layers hold them as parameters, as on a GPU."""
    import vllm._custom_ops

    dtype, packed = request.param
    with pytest.MonkeyPatch.context() as patch:
        if not packed:
            patch.setattr(vllm._custom_ops, "_supports_onednn", False)
        with VllmEngine(tiny.folder, EngineSettings(max_batch=8, dtype=dtype, adapters="merged")) as engine:
            sizes = {layer.weight.numel() for layer in layers(engine).values()}
            assert (sizes == {0}) is packed
            yield engine


def layers(engine: VllmEngine) -> dict[str, Any]:
    """Return vLLM's linear layers by their path inside the model."""
    (model,) = engine._llm.apply_model(lambda model: model)
    names = [f"model.layers.{block}.{name}" for block in range(2) for name in (*FUSED, *PLAIN)]
    return {name: model.get_submodule(name) for name in names}


def computed(engine: VllmEngine) -> dict[str, Tensor]:
    """Return the weights with which vLLM's layers multiply: their outputs for the columns of the identity."""
    found = {}
    for name, layer in layers(engine).items():
        identity = torch.eye(layer.input_size, dtype=getattr(torch, engine.dtype))
        found[name] = layer.quant_method.apply(layer, identity, None).T.contiguous()
    return found


def expected(tiny: TinyModel, adapter: Path | None, dtype: str) -> dict[str, Tensor]:
    """Return these weights from the checkpoint's files, each layer merged by itself."""
    stored = {n: t.to(getattr(torch, dtype)) for n, t in load_file(tiny.folder / "model.safetensors").items()}
    if adapter is not None:
        read = read_adapter(adapter, read_checkpoint(tiny.folder).linear_layers)
        for module, (a, b) in read.factors.items():
            stored[f"{module}.weight"] = merged_weight(stored[f"{module}.weight"], a, b, read.scaling)
    weights = {}
    for block in range(2):
        place = f"model.layers.{block}"
        for name, children in FUSED.items():
            parent = name.partition(".")[0]
            weights[f"{place}.{name}"] = torch.cat([stored[f"{place}.{parent}.{c}.weight"] for c in children])
        for name in PLAIN:
            weights[f"{place}.{name}"] = stored[f"{place}.{name}.weight"]
    return weights


def differing(first: dict[str, Tensor], second: dict[str, Tensor]) -> list[str]:
    return [name for name, weight in first.items() if not torch.equal(weight, second[name])]


def test_layers_compute_with_the_merged_weights_and_then_with_the_base_again(
    merging: VllmEngine, tiny: TinyModel, tmp_path: Path
) -> None:
    narrow = save_random_adapter(tmp_path / "narrow", tiny.folder, seed=3, spread=0.3, targets=["v_proj", "down_proj"])
    base = expected(tiny, None, merging.dtype)
    assert differing(computed(merging), base) == []
    assert merging._merged is not None
    for adapter in (tiny.adapters[0], narrow, tiny.adapters[1], None):
        merging._hold(merging._merged, adapter)
        weights = expected(tiny, adapter, merging.dtype)
        assert differing(computed(merging), weights) == []
        changed = {name.split(".", 3)[3] for name in differing(weights, base)}
        touched = {None: set(), narrow: {"self_attn.qkv_proj", "mlp.down_proj"}}
        assert changed == touched.get(adapter, {*FUSED, *PLAIN})
    merging.generate([Request(prompt, 4, adapter) for prompt in tiny.prompts for adapter in (None, *tiny.adapters)])
    assert differing(computed(merging), base) == []


def test_the_canary_passes_in_each_number_format(merging: VllmEngine, tiny: TinyModel) -> None:
    sequences = list(tiny.prompts[:4])
    without, *applied = (peft_logprobs(tiny.folder, a, sequences) for a in (None, *tiny.adapters))
    canaries = {
        adapter: Canary(tuple(sequences), tuple(map(tuple, without)), tuple(map(tuple, rows)))
        for adapter, rows in zip(tiny.adapters, applied, strict=True)
    }
    check_canaries(merging, canaries)


def test_the_copy_is_as_large_as_predicted(merging: VllmEngine, tiny: TinyModel) -> None:
    assert merging._merged is not None
    assert merging._merged.nbytes == read_decoder(tiny.folder).linear_bytes(merging.dtype)


def test_keys_and_values_of_other_weights_are_not_used_again(
    tiny: TinyModel, transformers_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    import vllm

    make = vllm.LLM
    monkeypatch.setattr(vllm, "LLM", lambda **given: make(**given | {"enable_prefix_caching": True, "block_size": 32}))
    prompt = (1, *(6 + i % 100 for i in range(50)))
    with VllmEngine(tiny.folder, EngineSettings(max_batch=4, adapters="merged")) as engine:
        for adapter in (tiny.adapters[0], tiny.adapters[1], None, tiny.adapters[0]):
            request = Request(prompt, 8, adapter, (7, 8))
            (first,), (again,) = engine.generate([request]), engine.generate([request])
            (expected,) = transformers_engine.generate([request])
            assert first.token_ids == again.token_ids == expected.token_ids
            assert first.contrast_logprobs == pytest.approx(expected.contrast_logprobs, abs=1e-3)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("broken")])
def test_a_failure_closes_the_engine(tiny: TinyModel, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    engine = VllmEngine(tiny.folder, EngineSettings(max_batch=4, adapters="merged"))

    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(engine._llm, "generate", fail)
    with pytest.raises((KeyboardInterrupt, FedSafetyError)):
        engine.generate([Request(tiny.prompts[0], 3, tiny.adapters[0])])
    with pytest.raises(FedSafetyError, match="closed"):
        engine.generate([Request(tiny.prompts[0], 3)])
