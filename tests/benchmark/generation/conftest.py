"""The tiny model and engines over it, shared by all tests here."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from benchmark.generation.base import Engine
from benchmark.generation.settings import EngineSettings
from benchmark.generation.transformers_engine import TransformersEngine

from .tiny_model import RANK, VOCABULARY, TinyModel, save_random_adapter, save_random_model


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Keep to one thread: on models this small more threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    root = tmp_path_factory.mktemp("tiny")
    base = save_random_model(root / "base", seed=0)
    adapters = [save_random_adapter(root / f"adapter{i}", base, seed=10 + i, spread=0.05) for i in range(3)]
    rng = np.random.default_rng(0)
    prompts = tuple(
        (1, 3, *(int(t) for t in rng.integers(6, VOCABULARY, int(rng.integers(3, 12)))), 4) for _ in range(12)
    )
    return TinyModel(base, tuple(adapters), prompts)


@pytest.fixture(scope="session")
def transformers_engine(tiny: TinyModel) -> Iterator[Engine]:
    with TransformersEngine(tiny.folder, EngineSettings(max_batch=5), device="cpu") as engine:
        yield engine


@pytest.fixture(scope="session")
def vllm_engine(tiny: TinyModel) -> Iterator[Engine]:
    from benchmark.generation.vllm_engine import VllmEngine

    with VllmEngine(tiny.folder, EngineSettings(max_lora_rank=RANK, max_loras=2, max_batch=16)) as engine:
        yield engine


@pytest.fixture(params=[pytest.param("vllm", marks=pytest.mark.vllm), "transformers"])
def engine(request: pytest.FixtureRequest) -> Engine:
    """Each engine in turn."""
    found: Engine = request.getfixturevalue(f"{request.param}_engine")
    return found
