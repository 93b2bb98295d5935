"""Prompts that do not fit, tokenizers that lack something, memory that runs out: one clear error, or no matter."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmark.errors import FedSafetyError, UsageError
from benchmark.generation.base import Engine, Request
from benchmark.generation.checkpoints import read_checkpoint
from benchmark.generation.memory import memory_error
from benchmark.generation.select import EngineChoice, choose_engine, open_engine
from benchmark.generation.settings import EngineSettings
from benchmark.generation.transformers_engine import TransformersEngine
from benchmark.generation.vllm_engine import VllmEngine
from benchmark.models.memory import out_of_memory
from benchmark.suites.suite import Compute
from tasks.base import Checkpoint

from .tiny_model import TinyModel


def test_prompts_that_do_not_fit_are_named_before_anything_runs(engine: Engine) -> None:
    engine.check_fit([("short", 60, 4), ("exact", 4, 60)])
    with pytest.raises(UsageError) as caught:
        engine.check_fit([("probe a", 60, 10), ("probe b", 3, 4), ("probe c", 61, 12)])
    assert str(caught.value).startswith(
        "2 of 3 prompts do not fit: probe c with its answer takes 73 tokens (61 of the prompt, up to 12 new ones), the "
        "engine allows 64; "
    )


def test_an_engine_can_be_opened_for_less_than_the_model_takes(tiny: TinyModel) -> None:
    with open_engine(choose_engine("transformers"), tiny.folder, EngineSettings(max_length=16)) as engine:
        assert engine.max_length == 16
        with pytest.raises(UsageError, match=r"takes 17 tokens .* allows 16"):
            engine.generate([Request((1,) * 10, 7)])
    with open_engine(choose_engine("transformers"), tiny.folder, EngineSettings(max_length=4096)) as engine:
        assert engine.max_length == 64


@pytest.fixture
def without_pad(tiny: TinyModel, tmp_path: Path) -> Path:
    """The tiny model with a tokenizer that has no pad token and another end than the model's configuration says."""
    folder = tmp_path / "base"
    shutil.copytree(tiny.folder, folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    del config["pad_token"]
    path.write_text(json.dumps({**config, "eos_token": "w3"}))
    return folder


def test_a_tokenizer_without_pad_token_does_not_matter(
    transformers_engine: Engine, tiny: TinyModel, without_pad: Path
) -> None:
    requests = [Request(prompt, 3, tiny.adapters[0]) for prompt in tiny.prompts]
    expected = [a.token_ids for a in transformers_engine.generate(requests)]
    assert all(9 not in ids for ids in expected)
    with TransformersEngine(without_pad, device="cpu") as engine:
        assert [a.token_ids for a in engine.generate(requests)] == expected


def test_the_end_that_training_puts_ends_answers_too(tiny: TinyModel, without_pad: Path) -> None:
    assert read_checkpoint(tiny.folder).end_ids == {2}
    assert read_checkpoint(without_pad).end_ids == {2, 9}


def test_the_end_that_the_template_writes_ends_answers_too(without_pad: Path) -> None:
    (without_pad / "generation_config.json").unlink()
    turns = "{% for m in messages %}{{ m['content'] }} <a>{% endfor %}"
    (without_pad / "chat_template.jinja").write_text(turns)
    path = without_pad / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "extra_special_tokens": ["<a>"]}))
    assert read_checkpoint(without_pad).end_ids == {2, 9, 4}
    # A template of the suite takes the place of the tokenizer's own.
    assert read_checkpoint(without_pad, turns.replace("<a>", "<s>")).end_ids == {2, 9, 1}
    settings = EngineSettings.of(Compute(), Checkpoint(lambda: without_pad, template=turns), max_lora_rank=8)
    assert settings.template == turns


class Full:
    """Stands for a model whose memory runs out."""

    dtype = torch.float32

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __call__(self, **kwargs: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nLong story.")

    generate = __call__


WAY_OUT = (
    r"ran out of memory while answering \(max_batch=4, .*max_length=64.*\): CUDA out of memory. Tried to allocate "
    r"20.00 GiB.; lower compute.max_batch .* compute.gpu_memory_fraction .* compute.tensor_parallel; then run again"
)


@pytest.fixture
def without_tensor(tiny: TinyModel, tmp_path: Path) -> Path:
    """The tiny model with a configuration that has one more layer than the weights."""
    folder = tmp_path / "base"
    shutil.copytree(tiny.folder, folder)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "num_hidden_layers": config["num_hidden_layers"] + 1, "layer_types": None}))
    return folder


MISSING = r"no tensor 'model\.layers\..*; restore the folder"


def test_transformers_makes_up_no_missing_tensor(without_tensor: Path) -> None:
    with pytest.raises(FedSafetyError, match=MISSING):
        TransformersEngine(without_tensor, device="cpu")


@pytest.mark.vllm
@pytest.mark.slow
def test_vllm_makes_up_no_missing_tensor(without_tensor: Path) -> None:
    with pytest.raises(FedSafetyError, match=MISSING):
        VllmEngine(without_tensor)


def test_transformers_out_of_memory(tiny: TinyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = TransformersEngine(tiny.folder, EngineSettings(max_batch=4), device="cpu")
    first = engine.generate([Request(tiny.prompts[0], 3)])
    monkeypatch.setattr(engine, "_model", Full())
    with pytest.raises(FedSafetyError, match=WAY_OUT):
        engine.generate([Request(tiny.prompts[0], 3)])
    assert first[0].token_ids
    with pytest.raises(FedSafetyError, match="closed"):
        engine.generate([Request(tiny.prompts[0], 3)])


class Limited:
    """A model whose memory holds a number of sequences; notes how many it was given."""

    def __init__(self, model: Any, fits: int) -> None:
        self._model, self._fits = model, fits
        self.given: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __call__(self, **inputs: Any) -> Any:
        count = len(inputs["input_ids"])
        if not self.given or self.given[-1] != count:
            self.given.append(count)
        if count > self._fits:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return self._model(**inputs)


def test_where_a_batch_does_not_fit_half_of_it_is_tried(transformers_engine: Engine, tiny: TinyModel) -> None:
    requests = [Request(prompt, 6, adapter) for prompt in tiny.prompts for adapter in (None, tiny.adapters[0])]
    scored = [(prompt, tiny.adapters[0]) for prompt in tiny.prompts]
    with TransformersEngine(tiny.folder, EngineSettings(max_batch=8), device="cpu") as engine:
        limited = engine._model = Limited(engine._model, 3)
        answers = engine.generate(requests)
        assert [a.token_ids for a in answers] == [a.token_ids for a in transformers_engine.generate(requests)]
        # Once is enough: what fitted is remembered.
        assert limited.given[:3] == [8, 4, 2]
        assert set(limited.given[2:]) == {2}
        assert len(answers) == len(requests)
        limited.given.clear()
        for row, expected in zip(engine.scores(scored), transformers_engine.scores(scored), strict=True):
            assert [s.logprob for s in row] == pytest.approx([s.logprob for s in expected], abs=1e-4)
        assert limited.given[:3] == [8, 4, 2]
        limited._fits = 0
        limited.given.clear()
        with pytest.raises(FedSafetyError, match=r"ran out of memory while answering .*20\.00 GiB"):
            engine.generate(requests)
        assert limited.given == [2, 1]


@pytest.mark.vllm
@pytest.mark.slow
def test_vllm_out_of_memory(tiny: TinyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = VllmEngine(tiny.folder, EngineSettings(max_batch=4))
    assert engine.generate([Request(tiny.prompts[0], 3)])[0].token_ids
    monkeypatch.setattr(engine._llm, "generate", lambda *args, **kwargs: Full()())
    with pytest.raises(FedSafetyError, match=WAY_OUT):
        engine.generate([Request(tiny.prompts[0], 3)])
    with pytest.raises(FedSafetyError, match="closed"):
        engine.generate([Request(tiny.prompts[0], 3)])


@pytest.mark.vllm
def test_a_model_that_does_not_fit_is_said_to_be_too_large(tiny: TinyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    import vllm

    def full(**kwargs: Any) -> None:
        raise ValueError("No available memory for the cache blocks. Try increasing `gpu_memory_utilization`.")

    monkeypatch.setattr(vllm, "LLM", full)
    with pytest.raises(FedSafetyError, match=r"ran out of memory while loading .*max_batch=256, max_loras=8"):
        VllmEngine(tiny.folder)


def test_what_counts_as_out_of_memory() -> None:
    wrapped = RuntimeError("worker died")
    wrapped.__cause__ = torch.OutOfMemoryError("CUDA out of memory")
    assert out_of_memory(wrapped)
    assert out_of_memory(RuntimeError("Worker failed with error 'CUDA out of memory. Tried to allocate 2 GiB'"))
    assert not out_of_memory(RuntimeError("index out of range"))
    assert "OutOfMemoryError" in str(memory_error("e", "answering", torch.OutOfMemoryError(), {}))


def test_what_an_engine_cannot_do_is_refused(tiny: TinyModel) -> None:
    plain = EngineChoice("transformers", "asked")
    with pytest.raises(UsageError, match="unknown quantization '8-bit'; did you mean '8bit'"):
        open_engine(plain, tiny.folder, EngineSettings(quantization="8-bit"))
    with pytest.raises(UsageError, match="tensor_parallel is 2, but the transformers engine runs on one device"):
        open_engine(plain, tiny.folder, EngineSettings(tensor_parallel=2))
