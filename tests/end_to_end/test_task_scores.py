"""Tasks of lm-evaluation-harness through the console command: scored, resumed, published, shown, or refused."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmark.records.store import Store
from leaderboard.rows.rows import load_rows
from leaderboard.scores.cells import CellScore, scores

from .conftest import Fedsafety

pytestmark = pytest.mark.slow

MICRO = ("--task", "micro_utility", "--task", "micro_tasks")

CHOICE = """
task: kinds
dataset_path: json
dataset_kwargs: {{data_files: {data}, cache_dir: {cache}}}
test_split: train
output_type: multiple_choice
doc_to_text: question
doc_to_choice: [a fruit, an animal]
doc_to_target: gold
metadata: {{version: 1}}
"""
HUB = """
task: far_away
dataset_path: nobody/nothing
test_split: test
doc_to_text: question
doc_to_target: answer
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of two tasks, one over local data and one over data of the hub."""
    folder = tmp_path / "yaml"
    folder.mkdir()
    data = folder / "kinds.jsonl"
    data.write_text('{"question": "what kind is cat ?", "gold": 1}\n{"question": "what kind is apple ?", "gold": 0}\n')
    (folder / "kinds.yaml").write_text(CHOICE.format(data=data, cache=folder / "cache"))
    (folder / "far_away.yaml").write_text(HUB)
    return folder


@pytest.fixture(scope="module")
def scored_run(tmp_path_factory: pytest.TempPathFactory, finished_run: Path, fedsafety: Fedsafety) -> Path:
    """The finished run with the scores of the micro tasks."""
    runs = tmp_path_factory.mktemp("scored") / "runs"
    shutil.copytree(finished_run, runs)
    result = fedsafety("run", "--suite", SUITE, "--runs", runs, "--engine", "transformers", *MICRO)
    assert result.returncode == 0, result.stderr
    assert "scoring tasks: " in result.stdout
    return runs


SUITE = Path(__file__).with_name("tiny.yaml")


def cells_of(runs: Path) -> list[CellScore]:
    return scores(load_rows([], local=[runs]))


def task_rows(runs: Path) -> list[dict[str, object]]:
    return sorted(Store(runs).read_all("task_scores").to_pylist(), key=repr)


def test_the_scores_of_the_micro_tasks_are_the_utility_from_verdicts(scored_run: Path) -> None:
    cells = cells_of(scored_run)
    assert {cell.state for cell in cells} == {"done"}
    by_task: dict[tuple[str, str], float] = {}
    for row in task_rows(scored_run):
        if row["metric"] == "acc":
            by_task[str(row["response_key"]), str(row["task"])] = float(str(row["value"]))
    utilities = set()
    for cell in cells:
        assert cell.metrics["task:micro_utility"] == pytest.approx(cell.metrics["utility"], abs=1e-12)
        kinds = [name.partition(":")[2] for name in cell.metrics if name.startswith("utility:")]
        assert len(kinds) == 7
        for kind in kinds:
            assert by_task[cell.row["response_key"], f"micro_{kind}"] == cell.metrics[f"utility:{kind}"]
        utilities.add(cell.metrics["utility"])
    assert 0.0 in utilities, "the refusal that is served in place of an answer is scored, too"
    assert max(utilities) > 0.4


def test_rows_name_version_hashes_engine_and_chat_format(scored_run: Path) -> None:
    rows = task_rows(scored_run)
    responses = {row["response_key"] for row in Store(scored_run).read_all("cells").to_pylist()}
    assert {row["response_key"] for row in rows} == responses
    assert {row["task_version"] for row in rows} == {"1.0"}
    assert {str(row["generator"]).split()[0] for row in rows} == {"transformers"}
    for task in {row["task"] for row in rows}:
        identities = {(r["task_hash"], r["config_hash"], r["chat"]) for r in rows if r["task"] == task}
        assert len(identities) == 1, task
        assert all(len(str(part)) >= 32 for part in next(iter(identities)))


def test_the_same_command_again_scores_nothing(scored_run: Path, fedsafety: Fedsafety) -> None:
    before = {path: path.stat().st_mtime_ns for path in scored_run.rglob("*") if path.is_file()}
    result = fedsafety("run", "--suite", SUITE, "--runs", scored_run, "--engine", "transformers", *MICRO)
    assert result.returncode == 0, result.stderr
    assert "scoring tasks" not in result.stdout
    assert {path: path.stat().st_mtime_ns for path in scored_run.rglob("*") if path.is_file()} == before


@pytest.mark.exhaustive
def test_killed_scoring_resumes_to_equal_rows(tmp_path: Path, finished_run: Path, scored_run: Path) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(finished_run, runs)
    command = [sys.executable, "-P", "-m", "benchmark.cli.main", "run", "--suite", str(SUITE), "--runs", str(runs)]
    command += ["--engine", "transformers", *MICRO]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 120
    while not list(runs.glob("task_scores/*.parquet")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    finished = len(list(runs.glob("task_scores/*.parquet")))
    assert 1 <= finished < len(list(scored_run.glob("task_scores/*.parquet"))), "not killed in the middle"
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert task_rows(runs) == task_rows(scored_run)
    assert not list(runs.rglob(".writing-*"))


def test_an_unknown_task_stops_before_anything_runs(tmp_path: Path, fedsafety: Fedsafety) -> None:
    arguments = ("run", "--suite", SUITE, "--runs", tmp_path / "runs", "--engine", "transformers")
    result = fedsafety(*arguments, "--task", "micro_utilty")
    assert result.returncode == 2
    assert "unknown lm-evaluation-harness task 'micro_utilty'; did you mean 'micro_utility'?" in result.stderr
    assert fedsafety(*arguments, "--task-path", tmp_path).returncode == 2
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_data_that_cannot_be_had_fail_their_task_alone(
    tmp_path: Path, finished_run: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, fedsafety: Fedsafety
) -> None:
    for name, value in (("HF_HUB_OFFLINE", "1"), ("HF_HOME", str(tmp_path / "hub"))):
        monkeypatch.setenv(name, value)
    runs = tmp_path / "runs"
    shutil.copytree(finished_run, runs)
    arguments = ("run", "--suite", SUITE, "--runs", runs, "--engine", "transformers", "--defense", "fedavg")
    tasks = ("--task", "far_away", "--task", "kinds", "--task-path", folder)
    result = fedsafety(*arguments, "--defense", "refuse_all", *tasks)
    assert result.returncode == 1
    assert "failed: far_away: task 'far_away' cannot be loaded" in result.stderr
    assert "HF_HOME" in result.stderr
    assert "Traceback" not in result.stderr
    rows = task_rows(runs)
    assert {row["requested"] for row in rows} == {"kinds"}
    cells = {cell["response_key"]: cell["defense"] for cell in Store(runs).read_all("cells").to_pylist()}
    values = {cells[str(row["response_key"])]: row for row in rows if row["headline"]}
    assert values["fedavg"]["value"] in (0.0, 0.5, 1.0)
    assert values["refuse_all"]["value"] is None
    assert "refuse_all answers itself when it serves" in str(values["refuse_all"]["reason"])
    assert all("task:kinds" not in cell.metrics for cell in cells_of(runs) if cell.row["defense"] == "refuse_all")


@pytest.mark.slow
def test_a_limited_score_stands_beside_the_whole_one_and_is_never_published(
    tmp_path: Path, scored_run: Path, fedsafety: Fedsafety
) -> None:
    runs, results = tmp_path / "runs", tmp_path / "results"
    shutil.copytree(scored_run, runs)
    arguments = ("run", "--suite", SUITE, "--runs", runs, "--engine", "transformers", "--defense", "fedavg")
    result = fedsafety(*arguments, "--task", "micro_fact", "--task", "micro_utility", "--task-limit", "5")
    assert result.returncode == 0, result.stderr
    (cell, *_) = [cell for cell in cells_of(runs) if cell.row["defense"] == "fedavg"]
    assert {"task:micro_utility", "task:micro_utility@5", "task:micro_fact@5"} <= set(cell.metrics)
    assert fedsafety("publish", "--suite", "tiny", "--runs", runs, "--results", results).returncode == 0
    assert task_rows(results / "tiny") == task_rows(scored_run)


def test_cells_that_are_published_get_their_task_scores_later(
    tmp_path: Path, finished_run: Path, scored_run: Path, fedsafety: Fedsafety
) -> None:
    results = tmp_path / "results"
    assert fedsafety("publish", "--suite", "tiny", "--runs", finished_run, "--results", results).returncode == 0
    assert not (results / "tiny" / "task_scores").exists()
    before = load_rows([results]).digest
    later = fedsafety("publish", "--suite", "tiny", "--runs", scored_run, "--results", results)
    assert later.returncode == 0, later.stderr
    assert task_rows(results / "tiny") == task_rows(scored_run)
    assert load_rows([results]).digest != before
    assert fedsafety("publish", "--suite", "tiny", "--runs", scored_run, "--results", results).returncode == 2


@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.exhaustive
def test_both_engines_give_the_same_task_scores(
    tmp_path: Path, scored_run: Path, folder: Path, fedsafety: Fedsafety
) -> None:
    common = ("--scenario", "attacked", "--defense", "fedavg", "--defense", "krum")
    found = []
    for engine in ("vllm", "transformers"):
        runs = tmp_path / engine
        shutil.copytree(scored_run, runs)
        shutil.rmtree(runs / "task_scores")
        arguments = ("run", "--suite", SUITE, "--runs", runs, "--engine", engine, *common)
        result = fedsafety(*arguments, *MICRO, "--task", "kinds", "--task-path", folder)
        assert result.returncode == 0, result.stderr
        store = Store(runs)
        cells = {c["response_key"]: (c["scenario"], c["stage"]) for c in store.read_all("cells").to_pylist()}
        # Exact, with the answers' digest, but for likelihoods: those agree up to rounding, and so does what they pick.
        kept = ("task", "metric", "value", "stderr", "samples", "task_hash", "config_hash", "headline")
        rows = [(cells[r["response_key"]], *(r[k] for k in kept)) for r in store.read_all("task_scores").to_pylist()]
        found.append(sorted(rows, key=repr))
    assert found[0] == found[1]
    assert len({row[0] for row in found[0]}) == 4
