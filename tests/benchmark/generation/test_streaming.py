"""More adapters than an engine has slots for: the same answers, and nothing that grows."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmark.errors import UsageError
from benchmark.generation.adapters import StoredAdapter
from benchmark.generation.base import Engine, Request
from benchmark.generation.settings import EngineSettings
from benchmark.generation.vllm_engine import VllmEngine

from .tiny_model import TinyModel, changed_copy, peft_logprobs, save_random_adapter

MANY = 20
"""Adapters; more than twice what the engines of these tests remember."""


@pytest.fixture(scope="module")
def many(tiny: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    root = tmp_path_factory.mktemp("many")
    factors = [0.2 + 0.1 * i for i in range(MANY)]
    return tuple(changed_copy(tiny.adapters[i % 3], root / f"{i:02}", factor=f) for i, f in enumerate(factors))


@pytest.fixture(scope="module")
def one_slot(tiny: TinyModel) -> Iterator[VllmEngine]:
    with VllmEngine(tiny.folder, EngineSettings(max_lora_rank=64, max_loras=1, max_batch=16)) as engine:
        yield engine


def check_one_at_a_time(engine: Engine, many: tuple[Path, ...], tiny: TinyModel) -> None:
    requests = [Request(prompt, 8, adapter) for prompt in tiny.prompts[:2] for adapter in (*many, None)]
    together = [answer.token_ids for answer in engine.generate(requests)]
    alone = [engine.generate([request])[0].token_ids for request in requests]
    assert together == alone
    assert len(set(together)) > MANY // 2


def test_transformers_answers_as_one_at_a_time(
    transformers_engine: Engine, many: tuple[Path, ...], tiny: TinyModel
) -> None:
    check_one_at_a_time(transformers_engine, many, tiny)
    gc.collect()
    assert [o for o in gc.get_objects() if isinstance(o, StoredAdapter)] == []


@pytest.mark.vllm
@pytest.mark.slow
def test_vllm_answers_as_one_at_a_time_and_keeps_few(
    one_slot: VllmEngine, many: tuple[Path, ...], tiny: TinyModel
) -> None:
    for _ in range(2):
        check_one_at_a_time(one_slot, many, tiny)
    assert len(one_slot._lora_ids) <= 8
    assert len(one_slot._llm.llm_engine.list_loras()) <= 2


@pytest.mark.vllm
@pytest.mark.parametrize("rank", [16, 64])
def test_wide_adapters_are_applied(one_slot: VllmEngine, tiny: TinyModel, tmp_path: Path, rank: int) -> None:
    wide = save_random_adapter(tmp_path / "wide", tiny.folder, seed=3, spread=0.05, rank=rank)
    (found,) = one_slot.logprobs([tiny.prompts[0]], wide)
    (expected,) = peft_logprobs(tiny.folder, wide, [tiny.prompts[0]])
    assert found == pytest.approx(expected, abs=1e-3)


@pytest.mark.vllm
def test_ranks_beyond_what_vllm_has_are_refused(tiny: TinyModel) -> None:
    with pytest.raises(UsageError, match="max_lora_rank is 600; vLLM serves ranks from 1 to 512"):
        VllmEngine(tiny.folder, EngineSettings(max_lora_rank=600))
