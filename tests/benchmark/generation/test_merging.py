"""One adapter at a time in the weights: its rounding, the way back, and engines that are equal to PEFT."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmark.errors import FedSafetyError
from benchmark.generation.adapters import StoredAdapter
from benchmark.generation.base import Engine, Request
from benchmark.generation.canary import Canary, check_canaries
from benchmark.generation.merging import MergedWeights, Place, merged_weight
from benchmark.generation.settings import EngineSettings
from benchmark.generation.transformers_engine import TransformersEngine

from .tiny_model import TinyModel, changed_copy, peft_answers, peft_logprobs, save_random_adapter

MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def test_a_sum_worked_by_hand() -> None:
    weight = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    a, b = torch.tensor([[1.0, -1.0]]), torch.tensor([[2.0], [4.0]])
    assert merged_weight(weight, a, b, 0.5).tolist() == [[2.0, 1.0], [5.0, 2.0]]
    assert weight.tolist() == [[1.0, 2.0], [3.0, 4.0]]


def test_a_sum_is_rounded_once() -> None:
    # Beside 1, bfloat16 has steps of 2^-7. The update lies just above half a step. Rounded by itself it would be half
    # a step, and the sum would fall back to 1.
    weight, a = torch.ones(1, 1, dtype=torch.bfloat16), torch.ones(1, 1)
    b = torch.tensor([[2.0**-8 + 2.0**-20]])
    assert merged_weight(weight, a, b, 1.0).item() == 1 + 2**-7
    assert (weight + (b @ a).bfloat16()).item() == 1


def adapter_on(*modules: str, value: float) -> StoredAdapter:
    factors = {module: (torch.ones(1, 3), torch.full((2, 1), value)) for module in modules}
    return StoredAdapter(Path("a"), 1, 1.0, modules, "", factors)


class Model:
    """Two fused layers and one of its own, which record the weights that were written."""

    def __init__(self) -> None:
        self.base = {"fused": torch.randn(4, 3), "own": torch.randn(2, 3)}
        self.weights = {name: weight.clone() for name, weight in self.base.items()}
        self.writes, self.allowed = 0, 99
        places = {
            "first": Place("fused", slice(0, 2)),
            "second": Place("fused", slice(2, 4)),
            "third": Place("own", slice(None)),
        }
        copies = {name: weight.clone() for name, weight in self.base.items()}
        self.merged = MergedWeights(copies, places, self.write)

    def write(self, layer: str, weight: Tensor) -> None:
        if self.writes == self.allowed:
            raise KeyboardInterrupt
        self.writes += 1
        self.weights[layer] = weight.clone()

    @property
    def changes(self) -> dict[str, list[float]]:
        """Change of each row, for layers that changed."""
        moved = {name: (weight - self.base[name])[:, 0].tolist() for name, weight in self.weights.items()}
        return {name: [round(x, 4) for x in rows] for name, rows in moved.items() if any(rows)}


def test_adapters_take_turns_and_the_base_comes_back_bit_for_bit() -> None:
    model = Model()
    assert model.merged.nbytes == 4 * (4 * 3 + 2 * 3)
    model.merged.hold(adapter_on("second", value=0.5))
    assert model.changes == {"fused": [0, 0, 0.5, 0.5]}
    model.merged.hold(adapter_on("first", "second", value=0.25))
    assert model.changes == {"fused": [0.25] * 4}
    model.merged.hold(adapter_on("third", value=3.0))
    assert model.changes == {"own": [3.0, 3.0]}
    model.merged.hold(None)
    assert all(torch.equal(model.weights[name], weight) for name, weight in model.base.items())
    writes = model.writes
    model.merged.hold(None)
    assert model.writes == writes


@pytest.mark.parametrize("allowed", range(4))
def test_the_base_comes_back_after_an_interrupt(allowed: int) -> None:
    model = Model()
    model.merged.hold(adapter_on("third", value=1.0))
    model.allowed = model.writes + allowed
    try:
        model.merged.hold(adapter_on("first", value=1.0))
        model.merged.hold(adapter_on("second", "third", value=1.0))
    except KeyboardInterrupt:
        model.allowed = 99
    model.merged.hold(None)
    assert model.changes == {}
    assert all(torch.equal(model.weights[name], weight) for name, weight in model.base.items())


@pytest.fixture(scope="module", params=["transformers", pytest.param("vllm", marks=pytest.mark.vllm)])
def merging(request: pytest.FixtureRequest, tiny: TinyModel) -> Iterator[Engine]:
    settings = EngineSettings(max_batch=16, adapters="merged")
    if request.param == "transformers":
        with TransformersEngine(tiny.folder, settings, device="cpu") as engine:
            yield engine
    else:
        from benchmark.generation.vllm_engine import VllmEngine

        with VllmEngine(tiny.folder, settings) as engine:
            yield engine


@pytest.fixture(scope="module")
def one_module_each(tiny: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An adapter on each kind of layer alone."""
    root = tmp_path_factory.mktemp("modules")
    return {
        module: save_random_adapter(root / module, tiny.folder, seed=7, spread=0.3, rank=4, targets=[module])
        for module in MODULES
    }


def test_every_kind_of_layer_is_that_of_peft(
    merging: Engine, tiny: TinyModel, one_module_each: dict[str, Path]
) -> None:
    sequence = tiny.prompts[0]
    (bare,) = peft_logprobs(tiny.folder, None, [sequence])
    scores = merging.logprobs_mixed([(sequence, folder) for folder in one_module_each.values()])
    for (module, folder), found in zip(one_module_each.items(), scores, strict=True):
        (expected,) = peft_logprobs(tiny.folder, folder, [sequence])
        assert found == pytest.approx(expected, abs=1e-3), module
        assert expected != pytest.approx(bare, abs=1e-2), module


def test_greedy_answers_are_those_of_peft(merging: Engine, tiny: TinyModel) -> None:
    adapters = [None, *tiny.adapters]
    requests = [Request(prompt, 12, adapter) for prompt in tiny.prompts for adapter in adapters]
    answers = iter(merging.generate(requests))
    found = {(prompt, adapter): next(answers).token_ids for prompt in tiny.prompts for adapter in adapters}
    for adapter in adapters:
        expected = peft_answers(tiny.folder, adapter, list(tiny.prompts), 12)
        assert [found[prompt, adapter] for prompt in tiny.prompts] == expected


def test_every_call_ends_with_the_base_weights(merging: Engine, tiny: TinyModel) -> None:
    sequences = list(tiny.prompts)
    before = merging.logprobs(sequences, None)
    for adapter in tiny.adapters:
        merging.generate([Request(tiny.prompts[0], 3, adapter)])
        assert merging.logprobs(sequences, None) == before
    assert merging.logprobs(sequences, tiny.adapters[0]) != before


def test_a_canary_sees_a_merged_adapter(merging: Engine, tiny: TinyModel, tmp_path: Path) -> None:
    sequences = list(tiny.prompts[:4])
    without = tuple(map(tuple, peft_logprobs(tiny.folder, None, sequences)))
    canaries = {
        adapter: Canary(tuple(sequences), without, tuple(map(tuple, peft_logprobs(tiny.folder, adapter, sequences))))
        for adapter in tiny.adapters
    }
    check_canaries(merging, canaries)
    doubled = changed_copy(tiny.adapters[0], tmp_path / "doubled", alpha=32)
    with pytest.raises(FedSafetyError, match=r"canary of .* failed on .* with merged adapters \(float32\)"):
        check_canaries(merging, {doubled: canaries[tiny.adapters[0]]})


def test_an_adapter_that_does_not_fit_is_refused_and_the_engine_goes_on(
    merging: Engine, tiny: TinyModel, tmp_path: Path
) -> None:
    before = merging.logprobs([tiny.prompts[0]], None)
    renamed = changed_copy(tiny.adapters[0], tmp_path / "renamed", rename=("q_proj", "query"))
    with pytest.raises(FedSafetyError, match="belongs to no linear layer"):
        merging.generate([Request(tiny.prompts[0], 2, adapter) for adapter in (tiny.adapters[1], renamed)])
    assert merging.logprobs([tiny.prompts[0]], None) == before


def test_the_name_differs_from_that_of_an_engine_with_lora(merging: Engine, transformers_engine: Engine) -> None:
    assert merging.name.endswith(" with merged adapters")
    assert not transformers_engine.name.endswith(" with merged adapters")


def test_an_interrupt_leaves_the_base_weights_or_a_closed_engine(
    tiny: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    with TransformersEngine(tiny.folder, EngineSettings(max_batch=2, adapters="merged"), device="cpu") as engine:
        before = engine.logprobs([tiny.prompts[0]], None)
        calls = iter(range(9))

        def stop() -> None:
            if next(calls) == 1:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr("benchmark.generation.transformers_engine.check_stop", stop)
            with pytest.raises(KeyboardInterrupt):
                engine.generate([Request(prompt, 3, tiny.adapters[0]) for prompt in tiny.prompts])
        assert engine.logprobs([tiny.prompts[0]], None) == before
