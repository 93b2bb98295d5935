"""A committed cell, trained again from nothing, has the same key and says the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmark.records.store import Store

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.vllm
@pytest.mark.slow
def test_a_committed_cell_comes_out_again(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-m", "benchmark.cli.main", "run", "--runs", str(tmp_path), "--engine", "vllm"]
    chosen = ["--scenario", "clean_paper_shape", "--defense", "fedavg", "--seed", "11"]
    done = subprocess.run([*command, *chosen], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (cell,) = Store(tmp_path).read_all("cells").to_pylist()
    committed = Store(ROOT / "results" / "micro")
    assert cell["cell_key"] in committed.read_all("cells")["cell_key"].to_pylist()
    key = cell["response_key"]
    said = {row["probe_id"]: row["response"] for row in Store(tmp_path).read("responses", key).to_pylist()}
    rows = committed.read_all("responses").to_pylist()
    published = {row["probe_id"]: row["response"] for row in rows if row["response_key"] == key}
    assert said.keys() == published.keys()
    # Word for word on the platform of the rows; another processor's rounding may turn a few close calls.
    equal = sum(said[probe] == published[probe] for probe in said)
    assert equal >= 0.98 * len(said)
