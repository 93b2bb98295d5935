"""The committed rows test themselves: complete in the present protocol, and what the README quotes."""

from __future__ import annotations

import functools
import io
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from benchmark import COMPARABLE_PROTOCOLS, PROTOCOL_VERSION
from benchmark.execution.plan import make_plan
from benchmark.execution.selection import suite_pipelines
from benchmark.suites.suite import find_suite
from leaderboard.build import build
from leaderboard.ranking.boards import boards
from leaderboard.rows.rows import Rows, load_rows
from leaderboard.text import render_table

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "results"


@pytest.fixture(scope="module")
def rows() -> Rows:
    return load_rows([RESULTS])


@pytest.fixture(scope="module")
def cells(rows: Rows) -> list[dict[str, object]]:
    found: list[dict[str, object]] = rows.published.cells.to_pylist()
    return found


def identity(cell: dict[str, object]) -> tuple[object, ...]:
    return cell["scenario"], cell["defense"], cell["stage"], cell["seed"]


@functools.cache
def planned_cells() -> dict[tuple[object, ...], str]:
    """Return the key of every cell of the plan by scenario, defense, stage and seed."""
    cells = make_plan(find_suite("micro"), "vllm").cells
    return {(cell.scenario.id, cell.pipeline.name, cell.stage.name, cell.seed): cell.cell_key for cell in cells}


def test_all_rows_are_committed_and_of_a_comparable_protocol(rows: Rows, cells: list[dict[str, object]]) -> None:
    assert rows.local.cells.num_rows == 0
    assert {cell["origin"] for cell in cells} == {"committed"}
    assert {cell["protocol_version"] for cell in cells} <= {PROTOCOL_VERSION, *COMPARABLE_PROTOCOLS}
    assert sum(path.stat().st_size for path in RESULTS.rglob("*") if path.is_file()) < 80e6


def test_every_cell_of_a_defense_with_rows_is_committed(cells: list[dict[str, object]]) -> None:
    suite = find_suite("micro")
    assert len(suite.seeds) >= 10
    assert suite.sensitivity is not None
    assert all(len(suite.sensitivity.seeds_of(axis)) >= 3 for axis in suite.sensitivity.axes)
    present = {cell["defense"] for cell in cells}
    assert {*suite_pipelines(suite)} - present == set()
    missing = set(planned_cells()) - {identity(cell) for cell in cells if cell["protocol_version"] == PROTOCOL_VERSION}
    assert {defense for _, defense, _, _ in missing} & present == set()


def test_a_judge_has_one_identity_in_all_verdicts_of_a_protocol(rows: Rows, cells: list[dict[str, object]]) -> None:
    """Two would mean that some answers were judged by another judge of the same name."""
    protocols = {cell["response_key"]: cell["protocol_version"] for cell in cells}
    verdicts = rows.published.verdicts.select(["response_key", "judge", "judge_identity"])
    judged = {
        (protocols.get(row["response_key"]), row["judge"], row["judge_identity"])
        for row in verdicts.group_by(verdicts.column_names).aggregate([]).to_pylist()
    }
    for protocol in {*protocols.values()}:
        judges = [judge for version, judge, _ in judged if version == protocol]
        assert sorted(judges) == sorted(find_suite("micro").judges)


def test_no_cell_failed_and_what_is_not_applicable_says_why(cells: list[dict[str, object]]) -> None:
    assert {cell["status"] for cell in cells} == {"done", "not_applicable"}
    for cell in cells:
        assert bool(cell["reason"]) == (cell["status"] == "not_applicable")


def test_every_done_cell_names_engine_environment_and_a_clean_source(cells: list[dict[str, object]]) -> None:
    for cell in cells:
        if cell["status"] == "done":
            assert str(cell["generator"]).startswith("vllm")
            environment = json.loads(str(cell["environment"]))
            assert environment["packages"]["torch"]
            assert len(environment["source_revision"]) == 40


def test_the_attackers_pool_names_no_evaluation_item_where_it_is_existing_data(cells: list[dict[str, object]]) -> None:
    for cell in cells:
        if cell["attack"] == "unaligned_data" and cell["status"] == "done":
            assert cell["malicious_leaks"] == 0
            assert cell["malicious_rows"]


@pytest.mark.parametrize("scenario", ["", "aligned_start"])
def test_the_readme_quotes_the_table_that_the_rows_give(rows: Rows, scenario: str) -> None:
    console = Console(file=io.StringIO(), width=80)
    console.print(render_table(boards(rows), "micro", scenario))
    assert isinstance(console.file, io.StringIO)
    lines = [line.rstrip() for line in console.file.getvalue().splitlines() if line[:3].strip().isdigit()]
    assert len(lines) > 8
    readme = (ROOT / "README.md").read_text()
    for line in lines:
        assert line in readme


def test_the_page_is_the_same_from_the_same_rows(tmp_path: Path) -> None:
    pages = [build([RESULTS], [tmp_path / "none"], tmp_path / name).page.read_bytes() for name in ("one", "two")]
    assert pages[0] == pages[1]
    assert len(pages[0]) < 1.5e6


def test_the_rows_are_those_of_the_present_methods_settings_and_models(cells: list[dict[str, object]]) -> None:
    planned = planned_cells()
    # A method that was added without rows is planned and not committed; the other way round would be stale rows.
    assert {identity(cell) for cell in cells} <= planned.keys()
    keys = {identity(cell): cell["cell_key"] for cell in cells if cell["protocol_version"] == PROTOCOL_VERSION}
    assert {name: planned[name] for name in keys} == keys


@pytest.mark.parametrize(
    "path", sorted(RESULTS.rglob("*.parquet")), ids=lambda path: f"{path.parent.name}/{path.stem[:8]}"
)
def test_a_flipped_bit_in_any_column_of_a_committed_file_is_refused(path: Path) -> None:
    """A page without a checksum would be read as other values."""
    content = bytearray(path.read_bytes())
    group = pq.ParquetFile(path).metadata.row_group(0)
    for index in range(group.num_columns):
        column = group.column(index)
        start = column.dictionary_page_offset or column.data_page_offset
        last = start + column.total_compressed_size - 1
        content[last] ^= 1
        with (
            pq.ParquetFile(io.BytesIO(bytes(content)), page_checksum_verification=True) as file,
            pytest.raises(OSError, match="CRC"),
        ):
            file.read_row_group(0, columns=[column.path_in_schema.partition(".")[0]])
        content[last] ^= 1
