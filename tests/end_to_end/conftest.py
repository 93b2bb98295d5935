"""One finished run of the tiny suite, shared by the tests that only read it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ..console import console

SUITE = Path(__file__).with_name("tiny.yaml")

Fedsafety = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def fedsafety() -> Fedsafety:
    """Run the console command in a process of its own; returns what it printed."""

    def call(*arguments: str | Path, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        return console(*arguments, timeout=timeout)

    return call


@pytest.fixture(scope="session")
def tiny_suite() -> Path:
    """The tiny suite's file."""
    return SUITE


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory, fedsafety: Fedsafety) -> Path:
    """The folder of an undisturbed run of the tiny suite on the transformers engine."""
    runs = tmp_path_factory.mktemp("finished") / "runs"
    result = fedsafety("run", "--suite", SUITE, "--runs", runs, "--engine", "transformers")
    assert result.returncode == 0, result.stderr
    return runs
