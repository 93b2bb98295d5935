"""A data root of one's own, and sources made in a line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tasks.hub import datasets, digests, hub, models
from tasks.hub.cache import CACHE
from tasks.hub.github import MIRROR
from tasks.hub.roots import DATA_ROOT, MODEL_ROOT
from tasks.hub.settings import DatasetSource

COMMIT = "c0ffee" + 34 * "0"


@pytest.fixture(autouse=True)
def _fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No roots, no remembered reading, no digests of other runs."""
    for variable in (DATA_ROOT, MODEL_ROOT, CACHE, MIRROR, "HF_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    forget()
    yield
    forget()


def forget() -> None:
    for cached in (datasets._loaded, datasets._filtered, digests._digest, models._downloaded):
        cached.cache_clear()
    for asked in (hub._requested_commit, hub.check_reachable):
        asked.cache_clear()


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data root."""
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.setenv(DATA_ROOT, str(folder))
    return folder


@pytest.fixture
def source(root: Path) -> Callable[..., DatasetSource]:
    """Write rows as a JSONL file below the data root and return their source."""

    def write(name: str, rows: Sequence[dict[str, Any]], **settings: Any) -> DatasetSource:
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return DatasetSource(**{"repository": f"test/{name}", "local": f"{name}.jsonl", **settings})

    return write


def pairs(prefix: str, count: int, start: int = 0) -> list[dict[str, Any]]:
    return [{"instruction": f"{prefix} {i}", "response": f"answer {i}"} for i in range(start, start + count)]
