"""A model root for the judges' checkpoints, and the world whose roles name them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tasks.hub import HubWorld
from tasks.model_source import ModelSource

WorldOf = Callable[..., HubWorld]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Keep to one thread: on models this small more threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def model_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "models"
    root.mkdir()
    monkeypatch.setenv("FEDSAFETY_MODEL_ROOT", str(root))
    return root


@pytest.fixture
def world_of(model_root: Path) -> WorldOf:
    """Return a function from roles to a world whose checkpoints are the folders of those names below the model root."""
    del model_root

    def make(*roles: str, dtype: str = "float32", **settings: str) -> HubWorld:
        sources = {
            role: ModelSource.model_validate({"repository": "tests/made", "local": role, "dtype": dtype, **settings})
            for role in roles
        }
        return HubWorld(models=sources)

    return make
