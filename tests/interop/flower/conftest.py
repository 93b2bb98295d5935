"""Runs of the small federation in ``federation.py``, each in a process of its own that cannot hang the tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

MOST_SECONDS = 240
SCRIPT = Path(__file__).with_name("federation.py")

Simulate = Callable[[str, str], dict[str, Any]]


@pytest.fixture(scope="session")
def simulate(tmp_path_factory: pytest.TempPathFactory) -> Simulate:
    """Return what came of a simulation with a defense in which two clients do some harm; each is run once."""
    finished: dict[tuple[str, str], dict[str, Any]] = {}

    def run(defense: str, harm: str) -> dict[str, Any]:
        if (defense, harm) not in finished:
            out = tmp_path_factory.mktemp("simulation") / "found.json"
            process = subprocess.Popen(
                [sys.executable, "-P", str(SCRIPT), defense, harm, str(out)],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
                env=os.environ | {"FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0"},
            )
            try:
                said, _ = process.communicate(timeout=MOST_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                said, _ = process.communicate()
            assert out.exists(), f"the simulation failed or took more than {MOST_SECONDS} s:\n{said[-4000:]}"
            finished[defense, harm] = json.loads(out.read_text())
        return finished[defense, harm]

    return run
