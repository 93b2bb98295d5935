"""A small program inside a sandbox, by whichever way of isolating the test is for."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import benchmark.sandbox.seccomp
from benchmark.sandbox.isolation import IsolatedProcess, Isolation, start
from benchmark.sandbox.limits import Limits

PRELUDE = """
import ctypes, json, os, pathlib, socket, sys, threading, time

def attempt(action):
    try:
        return f"did: {action()}"
    except BaseException as error:
        return type(error).__name__
"""
FILTERED = "import seccomp\nseccomp.install()\n"

Run = Callable[..., IsolatedProcess]


@pytest.fixture
def begin(isolation: Isolation, tmp_path: Path) -> Run:
    """Start code inside: ``begin(code, limits, filtered=False, args=(), pass_fds=(), visible={})``."""

    def run(
        code: str,
        limits: Limits | None = None,
        *,
        filtered: bool = False,
        args: Sequence[str] = (),
        pass_fds: Sequence[int] = (),
        visible: dict[str, Path] | None = None,
    ) -> IsolatedProcess:
        program = tmp_path / "inside.py"
        program.write_text(PRELUDE + (FILTERED if filtered else "") + textwrap.dedent(code))
        files = {
            "/fedsafety/inside.py": program,
            "/fedsafety/seccomp.py": Path(benchmark.sandbox.seccomp.__file__),
            **(visible or {}),
        }
        return start(isolation, "inside", args, visible=files, limits=limits or Limits(), pass_fds=pass_fds)

    return run


@pytest.fixture
def answer(begin: Run) -> Callable[..., Any]:
    """Run code inside to its end and return what it printed, as JSON."""

    def run(code: str, *args: Any, **settings: Any) -> Any:
        with begin(code, *args, **settings) as process:
            assert process.wait(60), "it does not end"
            assert process.died_of() == "exited with status 0", process.output()
            return json.loads(process.output())

    return run
