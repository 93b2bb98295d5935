from __future__ import annotations

import doctest
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from benchmark.errors import FedSafetyError, UsageError
from benchmark.records.store import Store
from leaderboard.api import Leaderboard, adapter

from .synthetic import cell_row

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def small(committed: Path) -> Leaderboard:
    return Leaderboard.load(committed)


def test_the_documented_examples_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    found = doctest.testfile(str(ROOT / "docs" / "api.md"), module_relative=False)
    assert found.attempted >= 12
    assert found.failed == 0


def test_importing_it_loads_no_model_code() -> None:
    code = (
        "import sys, leaderboard.api; print(sorted({'torch', 'transformers', 'peft', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_table_is_the_ranking_in_plain_values(small: Leaderboard) -> None:
    table = small.table("aligned_start")
    standings = small.board.by_scenario["aligned_start"]
    assert [line["defense"] for line in table] == [standing.entry.id for standing in standings]
    assert [line["rank"] for line in table] == [standing.rank for standing in standings]
    for line, standing in zip(table, standings, strict=True):
        safety = standing.metrics["safety"]
        assert (line["safety"], line["safety_seeds"]) == (safety.mean, safety.count)
        assert line["safety_low"] == (None if math.isnan(safety.low) else safety.low)
        assert line.keys() == table[0].keys()
    assert pa.Table.from_pylist(table).num_rows == len(small.board.entries)
    assert len(small.table()) == len(small.board.entries)


def test_interval_and_comparison_are_those_of_the_board(small: Leaderboard) -> None:
    expected = small.board.entry("krum").scenarios["aligned_start"].metrics["utility"]
    assert small.interval("krum", "utility", "aligned_start") == expected
    one, other = (small.board.values("aligned_start", name) for name in ("krum", "fedavg"))
    difference = small.compare("krum", "fedavg", scenario="aligned_start")
    assert difference.mean == pytest.approx(sum(one[seed] - other[seed] for seed in one) / len(one))
    assert small.cite("krum").rows == small.rows.published_digest


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda board: board.table("aligned"), "unknown attacked scenario with rows 'aligned'; did you mean"),
        (lambda board: board.interval("krun"), "unknown defense with rows 'krun'; did you mean 'krum'"),
        (lambda board: board.interval("krum", "safty"), "unknown metric 'safty'; did you mean 'safety'"),
        (lambda board: board.compare("krum", "fedavgg"), "unknown defense with rows 'fedavgg'; did you mean 'fedavg'"),
        (lambda board: board.compare("krum", "fedavg", "safty"), "no seed with a score for 'safty' in common"),
    ],
)
def test_unknown_names_are_refused(small: Leaderboard, call: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call(small)


def test_a_folder_or_suite_that_is_not_there_is_named(committed: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no folder .*nowhere"):
        Leaderboard.load(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="unknown suite 'mikro'; did you mean 'micro'"):
        Leaderboard.load(committed, suite="mikro")


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A folder of runs with one finished cell, whose adapter is there."""
    store = Store(tmp_path / "runs")
    row = cell_row(defense="krum", seed=11, origin="local")
    store.write("cells", row["cell_key"], [row])
    store.write_json(store.adapter_folder(row["adapter_key"]) / "adapter_config.json", {})
    return store.root


def test_the_adapter_of_a_cell_is_found(runs: Path) -> None:
    assert adapter(runs, "aligned_start", "krum", 11).parent == runs / "adapters"


def test_what_was_not_run_names_the_command_that_does(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        adapter(runs, "aligned_start", "krum", 12)
    command = f"fedsafety run --scenario aligned_start --defense krum --seed 12 --runs {runs}"
    assert str(caught.value).endswith(command)
    with pytest.raises(UsageError, match="fedsafety run --suite mine --scenario"):
        adapter(tmp_path / "none", "aligned_start", "krum", 11, suite="mine")
    assert not (tmp_path / "none").exists()


def test_a_cell_without_an_adapter_says_why(runs: Path) -> None:
    store = Store(runs)
    failed = cell_row(defense="dnc", seed=11, origin="local", status="failed", reason="boom")
    store.write("cells", failed["cell_key"], [failed])
    with pytest.raises(FedSafetyError, match="dnc, seed 11 is failed: boom"):
        adapter(runs, "aligned_start", "dnc", 11)
    (config,) = (runs / "adapters").rglob("adapter_config.json")
    config.unlink()
    with pytest.raises(FedSafetyError, match="is gone; make it again with: fedsafety run"):
        adapter(runs, "aligned_start", "krum", 11)
