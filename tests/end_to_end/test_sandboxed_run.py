"""Submitted methods give the same bytes in sandboxes as in the process, and one that fails takes nothing with it."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmark.records.store import Store

pytestmark = [pytest.mark.sandbox, pytest.mark.exhaustive]

HERE = Path(__file__).parent
METHODS = HERE / "submissions"
GOOD = ("e2e_krum", "e2e_momentum", "e2e_posthoc", "e2e_serve")
PIPELINES = ("fedavg", "e2e_krum", "e2e_momentum", "e2e_posthoc", "e2e_krum+e2e_posthoc", "e2e_posthoc+e2e_serve")
TIMING = {"server_seconds", "train_seconds", "aggregate_seconds", "created_at", "environment"}


@dataclass(frozen=True)
class Run:
    """A finished run: its folder and what was printed."""

    runs: Path
    said: dict[str, Any]

    def rows(self, table: str) -> list[dict[str, Any]]:
        rows = Store(self.runs).read_all(table)
        return sorted(rows.select([n for n in rows.schema.names if n not in TIMING]).to_pylist(), key=repr)

    def adapters(self) -> dict[str, str]:
        files = self.runs.glob("adapters/*/adapter_model.safetensors")
        return {file.parent.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory, tiny_suite: Path) -> Path:
    """The tiny suite with a submitted attack."""
    settings = yaml.safe_load(tiny_suite.read_text())
    settings |= {"defenses": ["fedavg"], "pipelines": []}
    settings["scenarios"][0]["attack"] = {"id": "e2e_attack", "params": {"boost": 1.5}}
    file = tmp_path_factory.mktemp("suite") / "tiny.yaml"
    file.write_text(yaml.safe_dump(settings))
    return file


def run(mode: str, suite: Path, runs: Path, *arguments: str) -> Run:
    files = [str(METHODS / f"{name}.py") for name in (*GOOD, "e2e_attack", *arguments)]
    pipelines = [*PIPELINES, *arguments]
    command = [sys.executable, "-P", str(HERE / "adopted_run.py"), mode, str(suite), str(runs), *files, *pipelines]
    result = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert result.returncode == 0, result.stderr
    return Run(runs, json.loads(result.stdout.strip().splitlines()[-1]))


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory, suite: Path) -> Run:
    return run("here", suite, tmp_path_factory.mktemp("here"))


@pytest.fixture(scope="module")
def isolated(tmp_path_factory: pytest.TempPathFactory, suite: Path) -> Run:
    return run("isolated", suite, tmp_path_factory.mktemp("isolated"), "e2e_exits", "e2e_unasked")


def test_nothing_of_a_submission_is_imported_where_it_is_isolated(here: Run, isolated: Run) -> None:
    assert here.said["imported"]
    assert isolated.said["imported"] == []


def test_adapters_are_equal_to_the_last_bit(here: Run, isolated: Run) -> None:
    found = here.adapters()
    assert len(found) >= 10
    assert isolated.adapters() == found


@pytest.mark.parametrize("table", ["cells", "rounds", "responses", "verdicts"])
def test_rows_are_equal(here: Run, isolated: Run, table: str) -> None:
    wanted = here.rows(table)
    assert wanted
    mine = isolated.rows(table)
    if table == "cells":
        mine = [row for row in mine if row["defense"] not in ("e2e_exits", "e2e_unasked")]
    assert mine == wanted


def test_what_a_submission_used_is_metered_alike(here: Run) -> None:
    cells = {(c["scenario"], c["defense"]): c for c in here.rows("cells") if c["final"]}
    assert cells["attacked", "e2e_posthoc"]["finetune_steps"] > 0
    assert cells["attacked", "e2e_posthoc"]["extra_models"] == 1
    assert cells["attacked", "e2e_momentum"]["generated_tokens"] > 0
    assert {c["status"] for c in cells.values()} == {"done"}


def test_methods_that_end_their_process_fail_their_own_cells(here: Run, isolated: Run) -> None:
    assert here.said["failed"] == {}
    failed = isolated.said["failed"]
    assert {name.split(" / ")[1] for name in failed} == {"e2e_exits", "e2e_unasked"}
    assert len(failed) == 4
    for name, reason in failed.items():
        hook, status = ("aggregate", 3) if "e2e_exits" in name else ("check_shape", 4)
        assert f"{hook}() of" in reason
        assert f"exited with status {status}" in reason
    rows = {c["defense"]: c for c in isolated.rows("cells") if c["status"] == "failed"}
    assert rows.keys() == {"e2e_exits", "e2e_unasked"}
    assert all(row["reason"] in failed.values() for row in rows.values())
