"""Engine settings and how a suite's use of a machine becomes some."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmark.errors import UsageError
from benchmark.generation.settings import LORA_RANKS, EngineSettings, buffer_rank
from benchmark.suites.suite import Compute
from tasks.base import Checkpoint

PLAIN = Checkpoint(Path)
ROUNDED = Checkpoint(Path, dtype="bfloat16", quantization="8bit")


def test_an_unused_compute_section_gives_the_defaults() -> None:
    assert EngineSettings.of(Compute(), PLAIN, max_lora_rank=8) == EngineSettings(dtype="float32")


def test_a_suites_compute_section_decides_unless_the_caller_does() -> None:
    compute = Compute(max_batch=3, max_loras=4, max_length=100, tensor_parallel=2, gpu_memory_fraction=0.5)
    settings = EngineSettings.of(compute, ROUNDED, max_lora_rank=16)
    assert settings == EngineSettings(16, 3, 100, "bfloat16", "8bit", 2, 0.5, 4)
    shorter = EngineSettings.of(compute, PLAIN, max_lora_rank=16, max_length=50, max_loras=1)
    assert (shorter.max_length, shorter.max_loras) == (50, 1)


def test_an_unknown_quantization_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(UsageError, match="unknown quantization '8-bit'; did you mean '8bit'"):
        EngineSettings(quantization="8-bit")


@pytest.mark.parametrize("form", [{"quantization": "4bit"}, {"tensor_parallel": 2}])
def test_weights_that_cannot_hold_adapters_are_refused(form: dict[str, Any]) -> None:
    assert EngineSettings(**form).label("vllm 1") == "vllm 1"
    with pytest.raises(UsageError, match=r"adapters cannot be merged into the model: .* decoding.adapters to lora"):
        EngineSettings(**form, adapters="merged")


@pytest.mark.parametrize(("rank", "buffered"), [(1, 1), (2, 8), (8, 8), (33, 64), (512, 512), (600, 600)])
def test_adapters_get_the_smallest_buffer_that_holds_them(rank: int, buffered: int) -> None:
    assert buffer_rank(rank) == buffered
    assert buffered in LORA_RANKS or buffered == 600
