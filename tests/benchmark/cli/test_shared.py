"""Roots: a command sets them for itself and its worker processes, and reading its options sets nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmark.cli.shared import Roots
from benchmark.errors import UsageError
from tasks.hub.roots import DATA_ROOT, MODEL_ROOT


@pytest.fixture(autouse=True)
def _no_roots(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (DATA_ROOT, MODEL_ROOT):
        monkeypatch.setenv(variable, "before")  # so that the test's changes are undone
        monkeypatch.delenv(variable)


def test_roots_set_what_they_name_when_they_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    roots = Roots(data=Path("data"))
    assert DATA_ROOT not in os.environ
    roots.use()
    assert os.environ[DATA_ROOT] == str(tmp_path / "data")
    assert MODEL_ROOT not in os.environ
    Roots().use()
    assert os.environ[DATA_ROOT] == str(tmp_path / "data")


@pytest.mark.parametrize("variable", [DATA_ROOT, MODEL_ROOT])
def test_a_root_that_does_not_exist_is_refused(variable: str, tmp_path: Path) -> None:
    place = tmp_path / "nowhere"
    with pytest.raises(UsageError, match="nowhere is no folder; give one that holds the files, or leave the option"):
        (Roots(data=place) if variable == DATA_ROOT else Roots(model=place)).use()
    assert variable not in os.environ
