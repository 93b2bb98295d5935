"""``fedsafety align``: the file that a suite can ship, its digest, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from benchmark.execution.stages import run_plan
from benchmark.keys import file_digest
from benchmark.records.store import Store
from benchmark.suites.suite import read_suite
from tests.benchmark.cli.test_main import run
from tests.benchmark.execution.test_alignment import pools, root, run_of, suite_of, with_expectations
from tests.benchmark.execution.test_sourced_suites import plan_of

__all__ = ["pools", "root", "run"]

Command = Callable[..., tuple[int, str, str]]


def written(tmp_path: Path, **alignment: object) -> Path:
    path = tmp_path / "made.yaml"
    path.write_text(yaml.safe_dump(suite_of(**alignment).model_dump(mode="json")))
    return path


@pytest.mark.slow
def test_the_file_is_written_with_its_digest_and_a_suite_can_ship_it(
    run: Command, tmp_path: Path, checkpoints: Path
) -> None:
    suite = written(tmp_path)
    status, said, _ = run("align", "--suite", str(suite))
    path = tmp_path / "made_alignment.safetensors"
    assert status == 0
    assert f"sha256: {file_digest(path)}" in said
    assert "steps 3" in said
    assert "base model: made/base@sha256:" in said
    status, _, errors = run("align", "--suite", str(suite))
    assert (status, "exists; move it away, or name another file with --output" in errors) == (2, True)
    shipping = {"file": path.name, "sha256": file_digest(path)}
    suite = written(tmp_path, adapter=shipping, defenses=["keep_initial"])
    status, said, _ = run("align", "--suite", str(suite), "--output", str(tmp_path / "again"))
    assert (status, "the suite's adapter has the same bytes" in said) == (0, True)
    store = Store(tmp_path / "runs")
    assert run_plan(run_of(plan_of(read_suite(suite), seeds=[1]), store)).failed_cells == ()
    (row, *_) = (row for row in store.read_all("inputs").to_pylist() if row["kind"] == "alignment")
    assert (row["source"], row["requested"], row["resolved"]) == (
        path.name,
        file_digest(path),
        f"sha256:{file_digest(path)}",
    )
    assert not (store.root / "alignment").exists()


@pytest.mark.slow
def test_a_start_outside_its_bounds_is_written_with_a_warning(run: Command, tmp_path: Path) -> None:
    expects = {"harmful": "asked", "least_refused": 0.5, "benign": "safe", "most_refused": 0.9}
    suite = tmp_path / "made.yaml"
    suite.write_text(yaml.safe_dump(with_expectations(**expects).model_dump(mode="json")))
    status, said, _ = run("align", "--suite", str(suite), "--output", "start")
    assert status == 0
    assert "refused prompts of asked: 0%" in said
    assert "warning: runs will be refused: the aligned start refuses 0% of asked" in said
    assert (tmp_path / "start").is_file()


def test_a_suite_without_an_alignment_is_refused(run: Command) -> None:
    status, _, errors = run("align", "--suite", "micro")
    assert (status, "suite 'micro' has no alignment" in errors) == (2, True)
