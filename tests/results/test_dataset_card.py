"""The folder of committed rows is a data set that ``datasets`` reads by configuration name, without a network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from benchmark.records.schemas import ADDED, TABLES

from ..leaderboard.synthetic import make_rows

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "results"
STORED = sorted({path.parent.name for path in RESULTS.glob("*/*/*.parquet")})  # those of submissions lie deeper
READ = """
import json, sys
from datasets import load_dataset
rows = load_dataset("results", sys.argv[1], split="train")
print(json.dumps({"rows": len(rows), "columns": rows.column_names, "first": rows[0]}, default=str))
"""


def test_the_card_has_one_configuration_a_stored_table() -> None:
    _, card, _ = (RESULTS / "README.md").read_text().split("---\n", 2)
    configs = {entry["config_name"]: entry["data_files"] for entry in yaml.safe_load(card)["configs"]}
    assert configs == {table: f"*/{table}/*.parquet" for table in STORED}
    assert set(STORED) <= set(TABLES)


def read(table: str, root: Path, cache: Path) -> dict[str, Any]:
    """Return what ``datasets`` reads of a configuration of the folder ``results`` in ``root``."""
    # A process of its own: where the library keeps its files is decided when it is imported.
    environment = dict(os.environ, HF_HOME=str(cache), HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")
    environment |= {"HF_DATASETS_CACHE": str(cache), "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    command = [sys.executable, "-c", READ, table]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    for path in cache.rglob("*.arrow"):
        path.unlink()  # pytest keeps the folder, and these hold all rows again
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("table", STORED)
def test_every_configuration_is_read_whole(table: str, tmp_path: Path) -> None:
    found = read(table, ROOT, tmp_path)
    files = sorted(RESULTS.glob(f"*/{table}/*.parquet"))
    assert found["rows"] == sum(pq.ParquetFile(path).metadata.num_rows for path in files) > 0
    assert found["columns"] == TABLES[table].names
    stored = pq.read_table(files[0], partitioning=None).slice(0, 1).to_pylist()[0]
    text = next(name for name in found["columns"] if isinstance(stored.get(name), str))
    assert found["first"][text] == stored[text]


@pytest.mark.parametrize("table", sorted(ADDED))
def test_files_of_both_schema_versions_are_read_together(table: str, tmp_path: Path) -> None:
    _, text, _ = (RESULTS / "README.md").read_text().split("---\n", 2)
    card = yaml.safe_load(text)
    card["configs"] = [entry for entry in card["configs"] if entry["config_name"] == table]
    rows = make_rows()[table]
    for suite, made in (("first", rows.drop_columns(list(ADDED[table]))), ("second", rows)):
        folder = tmp_path / "results" / suite / table
        folder.mkdir(parents=True)
        pq.write_table(made, folder / "rows.parquet")
    (tmp_path / "results" / "README.md").write_text(f"---\n{yaml.safe_dump(card)}---\n")
    found = read(table, tmp_path, tmp_path / "cache")
    assert (found["rows"], found["columns"]) == (2 * rows.num_rows, TABLES[table].names)
