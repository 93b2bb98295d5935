"""A search of attack parameters on the tiny suite: killed, continued, published and shown."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmark.records.tuned import committed_file, tuned_of

from .conftest import Fedsafety


def trials(runs: Path) -> list[dict[str, object]]:
    found = list(runs.rglob("trials.json"))
    return list(json.loads(found[0].read_text())["trials"]) if found else []


@pytest.mark.slow
def test_a_killed_search_goes_on_and_its_result_is_published(
    tmp_path: Path, tiny_suite: Path, fedsafety: Fedsafety
) -> None:
    runs, results = tmp_path / "runs", tmp_path / "results"
    words = ["attack-search", "--suite", str(tiny_suite), "--defense", "krum", "--scenario", "attacked"]
    words += ["--budget", "3", "--seed", "2", "--runs", str(runs)]
    command = [sys.executable, "-P", "-m", "benchmark.cli.main", *words]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    until = time.monotonic() + 600
    while not trials(runs) and time.monotonic() < until:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = trials(runs)
    assert 0 < len(before) < 3
    cells = {path: path.stat().st_mtime_ns for path in runs.rglob("cells/*.parquet")}
    again = fedsafety(*words, timeout=600)
    assert again.returncode == 0, again.stderr
    assert trials(runs)[: len(before)] == before
    assert len(trials(runs)) == 3
    assert {path: path.stat().st_mtime_ns for path in cells} == cells
    assert "3 trials" in again.stdout
    # Nothing is learned in the tiny suite, so that no attack is lower than another.
    published = fedsafety("publish", "--suite", "tiny", "--runs", runs, "--results", results)
    assert published.returncode == 0, published.stderr
    (result,) = tuned_of(committed_file(results, "tiny"), "tiny").values()
    assert (result.lower, result.budget.trials, result.seeds) == (False, 3, (2,))
    nothing = fedsafety("run", "--suite", tiny_suite, "--tuned", "--runs", runs)
    assert nothing.returncode == 0, nothing.stderr
    assert "nothing lower than the scenario's own attack was found: krum in attacked" in " ".join(
        nothing.stdout.split()
    )
