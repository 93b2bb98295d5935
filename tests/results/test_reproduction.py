"""A committed cell, trained again from nothing, has the same key and says the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmark.proof.compare_rows import compare_rows
from benchmark.records.store import Store

from ..console import console

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.vllm
@pytest.mark.slow
def test_a_committed_cell_comes_out_again(tmp_path: Path) -> None:
    chosen = ["--scenario", "clean_paper_shape", "--defense", "fedavg", "--seed", "11"]
    done = console("run", "--runs", tmp_path, "--engine", "vllm", *chosen)
    assert done.returncode == 0, done.stderr
    (cell,) = Store(tmp_path).read_all("cells").to_pylist()
    comparison = compare_rows(ROOT / "results" / "micro", tmp_path)
    (difference,) = comparison.cells
    assert (difference.scenario, difference.defense, difference.seed) == ("clean_paper_shape", "fedavg", 11)
    assert difference.status == "done"
    rows = Store(ROOT / "results" / "micro").read_all("cells").to_pylist()
    names = ("scenario", "stage", "seed", "protocol_version")
    (committed,) = [row for row in rows if all(row[name] == cell[name] for name in names)]
    assert committed["cell_key"] == cell["cell_key"]
    # Word for word on the platform of the rows; another processor's rounding may turn a few close calls.
    assert difference.answers == cell_answers(tmp_path, cell["response_key"])
    assert difference.answers_differ <= 0.02 * difference.answers


def cell_answers(folder: Path, response_key: str) -> int:
    return Store(folder).read("responses", response_key).num_rows
