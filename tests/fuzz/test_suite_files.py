"""Damaged suite files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import benchmark.suites
from benchmark.suites.suite import read_suite

from .mutations import damaged, returns_or_explains

FOLDER = Path(benchmark.suites.__file__).parent
DOCUMENTS: list[Any] = [yaml.safe_load((FOLDER / f"{name}.yaml").read_text()) for name in ("micro", "small", "paper")]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("suites") / "mine.yaml"


def _read(path: Path) -> None:
    suite = read_suite(path)
    assert suite.every_scenario


@settings(settings.get_profile("fuzz"))
@given(document=st.sampled_from(DOCUMENTS).flatmap(damaged))
def test_a_damaged_document_is_read_or_explained(path: Path, document: Any) -> None:
    path.write_text(json.dumps(document), encoding="utf-8")  # YAML holds JSON
    returns_or_explains(lambda: _read(path))


@settings(settings.get_profile("fuzz"))
@given(name=st.sampled_from(["micro", "small"]), data=st.data())
def test_a_damaged_text_is_read_or_explained(path: Path, name: str, data: st.DataObject) -> None:
    text = (FOLDER / f"{name}.yaml").read_bytes()
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 40)))
    path.write_bytes(text[:start] + data.draw(st.binary(max_size=8)) + text[end:])
    returns_or_explains(lambda: _read(path))
