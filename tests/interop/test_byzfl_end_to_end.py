"""A ByzFL aggregator from the command line to rows, table, page, CSV and citation."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from benchmark.records.store import Store

from ..console import console

pytestmark = pytest.mark.slow

SUITE = Path(__file__).resolve().parent.parent / "end_to_end" / "tiny.yaml"
ALONE = "byzfl:GeometricMedian(T=3,nu=0.1)"
CHAIN = "byzfl:Krum+posthoc_public"
DEGENERATE = "byzfl:TrMean(f=4)"


def fedsafety(*arguments: str | Path, status: int = 0) -> str:
    done = console(*arguments, timeout=300)
    assert done.returncode == status, done.stderr
    return done.stdout if status == 0 else done.stderr


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bridged") / "runs"
    names = ["--defense", "fedavg", "--defense", "byzfl:GeometricMedian(nu=0.10, T=3)"]
    names += ["--defense", CHAIN, "--defense", DEGENERATE]
    fedsafety("run", "--suite", SUITE, "--runs", folder, "--engine", "transformers", *names)
    return folder


@pytest.fixture(scope="module")
def results(runs: Path) -> Path:
    folder = runs.parent / "results"
    fedsafety("publish", "--suite", "tiny", "--runs", runs, "--results", folder)
    return folder


def test_rows_carry_the_canonical_name(runs: Path) -> None:
    cells = Store(runs).read_all("cells").to_pylist()
    assert {cell["status"] for cell in cells} == {"done"}
    assert {cell["defense"] for cell in cells} == {"fedavg", ALONE, CHAIN, DEGENERATE}
    assert {cell["stage"] for cell in cells if cell["defense"] == CHAIN} == {"byzfl:Krum", CHAIN}
    flags = {flag for cell in cells if cell["defense"] == DEGENERATE for flag in cell["flags"]}
    assert flags == {"degenerate: byzfl:TrMean(f=4) is the same function as median at n=9, f=3"}


def test_the_catalogue_describes_it(results: Path) -> None:
    rows = pq.read_table(next(results.rglob("*catalog*"))).to_pylist()
    (row,) = (row for row in rows if row["kind"] == "defense" and row["id"] == ALONE)
    assert (row["title"], row["knowledge"], row["stages"]) == (
        "ByzFL GeometricMedian (T=3, nu=0.1)",
        "none",
        "aggregate",
    )
    assert "Weiszfeld" in row["paper"]


def test_the_same_defense_in_another_spelling_is_done_already(runs: Path) -> None:
    def made() -> dict[Path, int]:
        """What a run makes; the catalogue describes each plan anew."""
        return {
            path: path.stat().st_mtime_ns for path in runs.rglob("*") if path.is_file() and "catalog" not in path.parts
        }

    before = made()
    name = " byzfl:GeometricMedian( T=3, nu=1e-1 )"
    fedsafety("run", "--suite", SUITE, "--runs", runs, "--engine", "transformers", "--defense", name)
    assert made() == before


def test_page_csv_and_table_show_it(results: Path) -> None:
    site = results.parent / "site"
    said = fedsafety(
        "leaderboard", "--suite", "tiny", "--results", results, "--runs", results.parent / "none", "--out", site
    )
    assert "byzfl:Krum+posthoc_public" in said
    page = (site / "index.html").read_text()
    ids = re.findall(r'id="([^"]*)"', page)
    for name in (ALONE, CHAIN, DEGENERATE):
        assert ids.count(f"defense={name}") == 1
    assert 'href="#defense=byzfl%3AGeometricMedian%28T%3D3%2Cnu%3D0.1%29"' in page
    with (site / "tiny.csv").open(newline="") as stream:
        assert {row["defense"] for row in csv.DictReader(stream)} == {"fedavg", ALONE, CHAIN, DEGENERATE}


def test_it_can_be_cited_with_both_sources(results: Path) -> None:
    said = json.loads(fedsafety("cite", ALONE, "--suite", "tiny", "--results", results, "--json"))
    text = json.dumps(said, ensure_ascii=False)
    assert "arxiv.org/abs/2505.24802" in text
    assert "Weiszfeld" in text
    assert f"--defense '{ALONE}'" in text


def test_misspelt_names_end_the_command_before_anything_is_done(tmp_path: Path) -> None:
    said = fedsafety("run", "--suite", SUITE, "--runs", tmp_path / "runs", "--defense", "byzfl:Trmean", status=2)
    assert said.startswith("error: unknown ByzFL aggregator 'Trmean'; did you mean 'TrMean'?")
    assert not (tmp_path / "runs").exists()
