"""A run of honest methods beside hostile ones: those fail with their reasons, nothing else changes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmark.errors import UsageError
from benchmark.methods.source import find_method
from benchmark.records.schemas import TABLES
from benchmark.records.store import Store

from ..console import console
from .conftest import isolation_called
from .play import METHODS

SUITE = Path(__file__).parents[1] / "end_to_end" / "tiny.yaml"
TIMING = {"server_seconds", "train_seconds", "aggregate_seconds", "created_at", "environment"}

HONEST = ("krum", "posthoc_public")
FAILING = {
    "exits": "raised SystemExit: 0",
    "patches_everything": "patches_everything",
    "raises_in_every_hook": "LookupError: check_shape fails",
    "wrong_returns": "returned NoneType",
}
HARMLESS = ("counts_prompts", "metadata_script", "threads_left_behind")

Fedsafety = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def fedsafety(tmp_path_factory: pytest.TempPathFactory) -> Fedsafety:
    """Run the console command in an empty folder."""
    folder = tmp_path_factory.mktemp("here")

    def call(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return console(*arguments, cwd=folder, env={**os.environ, "COLUMNS": "200"})

    return call


def run(fedsafety: Fedsafety, runs: Path, *defenses: str | Path) -> subprocess.CompletedProcess[str]:
    """Run defenses in sandboxes on the tiny suite."""
    chosen = [part for defense in defenses for part in ("--defense", defense)]
    options = ["--suite", SUITE, "--runs", runs, "--engine", "transformers", "--sandbox"]
    return fedsafety("run", *options, *chosen)


def path_of(method: str) -> Path:
    return METHODS / "defenses" / f"{method}.py"


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, fedsafety: Fedsafety) -> Path:
    """The rows of a run with honest methods only."""
    runs = tmp_path_factory.mktemp("alone") / "runs"
    result = run(fedsafety, runs, *HONEST)
    assert result.returncode == 0, result.stderr
    return runs


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory, fedsafety: Fedsafety) -> Path:
    """The rows of a run with honest and hostile methods."""
    isolation_called("auto")
    runs = tmp_path_factory.mktemp("together") / "runs"
    result = run(fedsafety, runs, *HONEST, *map(path_of, [*FAILING, *HARMLESS]))
    assert result.returncode == 1, result.stderr
    assert "\x1b[2J" not in result.stdout + result.stderr
    for method, reason in FAILING.items():
        assert f"{method} / seed 1" in result.stderr
        assert reason in result.stderr
    return runs


@pytest.mark.slow
def test_hostile_methods_fail_with_their_reasons_and_harmless_ones_do_not(together: Path) -> None:
    cells = Store(together).read_all("cells").to_pylist()
    status = {(cell["scenario"], cell["defense"]): cell["status"] for cell in cells}
    for scenario in ("attacked", "unattacked"):
        assert {m: status[scenario, m] for m in FAILING} == dict.fromkeys(FAILING, "failed")
        assert {m: status[scenario, m] for m in (*HONEST, *HARMLESS)} == dict.fromkeys((*HONEST, *HARMLESS), "done")
    for cell in cells:
        if cell["defense"] in FAILING:
            assert FAILING[cell["defense"]] in cell["reason"]
            assert cell["reason"].isprintable()


def comparable(runs: Path, table: str, keys: set[str]) -> list[dict[str, object]]:
    """Return the rows of a table that belong to honest cells, without timing and provenance."""
    rows = Store(runs).read_all(table)
    owned = [name for name in ("cell_key", "training_key", "response_key") if name in rows.schema.names][:1]
    kept = [row for row in rows.to_pylist() if not owned or row[owned[0]] in keys]
    return sorted(({k: v for k, v in row.items() if k not in TIMING} for row in kept), key=repr)


@pytest.mark.slow
def test_honest_rows_are_what_they_are_without_hostile_methods(alone: Path, together: Path) -> None:
    cells = Store(alone).read_all("cells").to_pylist()
    keys = {cell[name] for cell in cells for name in ("cell_key", "training_key", "response_key")}
    for table in ("cells", "rounds", "responses", "verdicts", "probes"):
        assert table in TABLES
        rows = comparable(alone, table, keys)
        assert rows
        assert comparable(together, table, keys) == rows, table


@pytest.mark.slow
def test_the_place_of_a_prompt_tells_nothing(together: Path) -> None:
    store = Store(together)
    kinds = {probe["probe_id"]: probe["kind"] for probe in store.read_all("probes").to_pylist()}
    cells = [cell for cell in store.read_all("cells").to_pylist() if cell["defense"] == "counts_prompts"]
    assert cells
    for cell in cells:
        rows = store.read("responses", cell["response_key"]).to_pylist()
        fixed = [row["probe_id"] for row in rows if row["tokens"] == 0]
        assert len(fixed) == 264
        harmful = sum(kinds[probe] == "harmful" for probe in fixed) / 264
        # Drawn without looking, 264 of 604 probes hold 44 percent of each kind; 60 would be eight standard deviations.
        assert harmful < 0.6


@pytest.mark.slow
def test_what_methods_say_of_themselves_is_text_on_the_page(
    tmp_path: Path, together: Path, fedsafety: Fedsafety
) -> None:
    site = tmp_path / "site"
    results = tmp_path / "results"
    results.mkdir()
    made = fedsafety("leaderboard", "--suite", "tiny", "--runs", together, "--results", results, "--out", site)
    assert made.returncode == 0, made.stderr
    pages = [path.read_text(encoding="utf-8") for path in site.rglob("*.html")]
    assert pages
    assert any("metadata_script" in page for page in pages)
    for page in pages:
        assert "<script>document.title" not in page
        assert "<img src=x" not in page


@pytest.mark.parametrize(
    ("method", "reason"),
    [("metadata_missing", "Field required"), pytest.param("knowledge_truth", "truth", marks=pytest.mark.slow)],
)
def test_a_method_that_cannot_be_known_stops_the_run_before_it_begins(
    tmp_path: Path, fedsafety: Fedsafety, method: str, reason: str
) -> None:
    result = run(fedsafety, tmp_path / "runs", "krum", path_of(method))
    assert result.returncode == 1
    assert "error: " in result.stderr
    assert method in result.stderr
    assert reason in result.stderr
    assert "Traceback" not in result.stderr
    assert not list((tmp_path / "runs").rglob("*.parquet"))


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        ("metadata_missing", "description: Field required"),
        pytest.param("exits", "raised SystemExit: 0", marks=pytest.mark.slow),
        pytest.param("patches_everything", "patches_everything", marks=pytest.mark.slow),
    ],
)
def test_check_reports_the_reason_to_people_and_machines(
    tmp_path: Path, fedsafety: Fedsafety, method: str, reason: str
) -> None:
    isolation_called("auto")
    result = fedsafety("check", path_of(method), "--json", tmp_path / "report.json")
    assert result.returncode == 1, result.stderr
    assert f"{method}: FAILED" in result.stdout
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    failed = [finding["found"] for finding in report["findings"] if finding["verdict"] == "failed"]
    assert any(reason in found for found in failed), failed


@pytest.mark.parametrize("name", ["krum", "base"])
def test_an_id_of_somebody_else_is_refused(tmp_path: Path, name: str) -> None:
    taken = tmp_path / f"{name}.py"
    shutil.copy(path_of("behaves"), taken)
    with pytest.raises(UsageError, match=f"{name}.*rename the file"):
        find_method(str(taken))


DEEP = {
    "signs": "x = " + "-" * 100_000 + "1",
    "sums": "x = " + "+".join(["1"] * 500),
    "branches": "if 1: pass\n" + "elif 1: pass\n" * 20_000,
    "above": "from ....x import y",
    "bytes": "x = '\0'",
}


@pytest.mark.parametrize("kind", DEEP)
def test_source_that_breaks_parsers_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "deep.py"
    path.write_text(f"from defenses.base import Defense\n{DEEP[kind]}\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"deep\.py"):
        assert find_method(str(path)).digest
