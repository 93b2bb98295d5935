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
from benchmark.records.tuned import committed_file, tuned_of
from benchmark.records.withheld import is_withheld
from benchmark.suites.suite import find_suite
from benchmark.suites.tuned import Tuned, tuned_suite
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


@pytest.fixture(scope="module")
def micro(cells: list[dict[str, object]]) -> list[dict[str, object]]:
    return [cell for cell in cells if cell["suite"] == "micro"]


@pytest.fixture(scope="module")
def pocket(cells: list[dict[str, object]]) -> list[dict[str, object]]:
    found = [cell for cell in cells if cell["suite"] == "pocket"]
    assert found
    return found


def identity(cell: dict[str, object]) -> tuple[object, ...]:
    return cell["scenario"], cell["defense"], cell["stage"], cell["seed"]


@functools.cache
def planned_cells() -> dict[tuple[object, ...], str]:
    """Return the key of every cell of the plan by scenario, defense, stage and seed."""
    cells = make_plan(find_suite("micro"), "vllm").cells
    return {(cell.scenario.id, cell.pipeline.name, cell.stage.name, cell.seed): cell.cell_key for cell in cells}


@functools.cache
def planned_tuned_cells(name: str) -> dict[tuple[object, ...], str]:
    """Return the keys of the cells of a suite's tuned attacks that are committed, likewise."""
    results = [each for each in tuned_of(committed_file(RESULTS, name), name).values() if each.lower]
    suite = find_suite(name)
    chosen = [Tuned(each.scenario, each.defense, each.attack.id, each.attack.params) for each in results]
    planned = {}
    for result in results:
        plan = make_plan(
            tuned_suite(suite, chosen),
            "vllm",
            scenarios=[result.runs_as],
            pipelines=[result.defense],
            seeds=suite.seeds,
        )
        planned |= {
            (cell.scenario.id, cell.pipeline.name, cell.stage.name, cell.seed): cell.cell_key
            for cell in plan.cells
            if cell.scenario.id == result.runs_as
        }
    return planned


def test_all_rows_are_committed_and_of_a_comparable_protocol(rows: Rows, cells: list[dict[str, object]]) -> None:
    assert rows.local.cells.num_rows == 0
    assert {cell["origin"] for cell in cells} == {"committed"}
    assert {cell["protocol_version"] for cell in cells} <= {PROTOCOL_VERSION, *COMPARABLE_PROTOCOLS}
    assert sum(path.stat().st_size for path in RESULTS.rglob("*") if path.is_file()) < 80e6


def test_every_cell_of_a_defense_with_rows_is_committed(micro: list[dict[str, object]]) -> None:
    suite = find_suite("micro")
    assert len(suite.seeds) >= 10
    assert suite.sensitivity is not None
    assert all(len(suite.sensitivity.seeds_of(axis)) >= 3 for axis in suite.sensitivity.axes)
    present = {cell["defense"] for cell in micro}
    assert {*suite_pipelines(suite)} - present == set()
    missing = set(planned_cells()) - {identity(cell) for cell in micro if cell["protocol_version"] == PROTOCOL_VERSION}
    assert {defense for _, defense, _, _ in missing} & present == set()


def test_a_judge_has_one_identity_in_all_verdicts_of_a_protocol(rows: Rows, cells: list[dict[str, object]]) -> None:
    """Two would mean that some answers were judged by another judge of the same name."""
    sources = {cell["response_key"]: (cell["suite"], cell["protocol_version"]) for cell in cells}
    verdicts = rows.published.verdicts.select(["response_key", "judge", "judge_identity"])
    judged = {
        (sources.get(row["response_key"]), row["judge"], row["judge_identity"])
        for row in verdicts.group_by(verdicts.column_names).aggregate([]).to_pylist()
    }
    for source in {*sources.values()}:
        judges = [judge for found, judge, _ in judged if found == source]
        assert sorted(judges) == sorted(find_suite(str(source[0])).judges)


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


@pytest.mark.parametrize(("suite", "scenario"), [("micro", ""), ("micro", "aligned_start"), ("pocket", "")])
def test_the_readme_quotes_the_table_that_the_rows_give(rows: Rows, suite: str, scenario: str) -> None:
    console = Console(file=io.StringIO(), width=80)
    console.print(render_table(boards(rows), suite, scenario))
    assert isinstance(console.file, io.StringIO)
    lines = [line.rstrip() for line in console.file.getvalue().splitlines() if line[:3].strip().isdigit()]
    assert len(lines) >= 8
    readme = (ROOT / "README.md").read_text()
    for line in lines:
        assert line in readme


def test_the_page_is_the_same_from_the_same_rows(tmp_path: Path) -> None:
    pages = [build([RESULTS], [tmp_path / "none"], tmp_path / name).page.read_bytes() for name in ("one", "two")]
    assert pages[0] == pages[1]
    assert len(pages[0]) < 1.5e6


def test_the_rows_are_those_of_the_present_methods_settings_and_models(micro: list[dict[str, object]]) -> None:
    planned = planned_cells() | planned_tuned_cells("micro")
    # A method that was added without rows is planned and not committed; the other way round would be stale rows.
    assert {identity(cell) for cell in micro} <= planned.keys()
    keys = {identity(cell): cell["cell_key"] for cell in micro if cell["protocol_version"] == PROTOCOL_VERSION}
    assert {name: planned[name] for name in keys} == keys


@pytest.mark.real_data
def test_the_rows_of_the_real_model_are_those_of_its_present_settings(
    pocket: list[dict[str, object]], real_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDSAFETY_DATA_ROOT", str(real_data))
    planned = {
        (cell.scenario.id, cell.pipeline.name, cell.stage.name, cell.seed): cell.cell_key
        for cell in make_plan(find_suite("pocket"), "vllm").cells
    } | planned_tuned_cells("pocket")
    assert {identity(cell): cell["cell_key"] for cell in pocket}.items() <= planned.items()


def test_each_seed_of_the_real_model_has_all_defenses(pocket: list[dict[str, object]]) -> None:
    defenses = {*suite_pipelines(find_suite("pocket"))}
    present = {(cell["scenario"], cell["seed"]) for cell in pocket}
    tuned = {result.runs_as for result in tuned_of(committed_file(RESULTS, "pocket"), "pocket").values()}
    for scenario, seed in ((scenario, seed) for scenario, seed in present if scenario not in tuned):
        assert {c["defense"] for c in pocket if (c["scenario"], c["seed"]) == (scenario, seed)} == defenses
    twins = {scenario.id: scenario.twin for scenario in find_suite("pocket").every_scenario}
    assert {(twins[str(scenario)], seed) for scenario, seed in present if scenario not in tuned} <= present


def test_no_row_of_the_real_model_holds_a_prompt_or_an_answer_to_a_harmful_prompt() -> None:
    data = find_suite("pocket").data
    assert data is not None
    hashed = {probe.id for probe in data.probes if probe.publish == "hash"}
    folder = RESULTS / "pocket"
    responses = [row for path in folder.glob("responses/*.parquet") for row in pq.read_table(path).to_pylist()]
    answers = {row["response"] for row in responses if row["probe_id"].partition("/")[0] in hashed}
    assert len(answers) > 100
    assert all(not answer or is_withheld(answer) for answer in answers)
    probes = [row for path in folder.glob("probes/*.parquet") for row in pq.read_table(path).to_pylist()]
    assert all(is_withheld(row["instruction"]) for row in probes)
    readings = [row for path in folder.glob("readings/*.parquet") for row in pq.read_table(path).to_pylist()]
    assert len(readings) == 300
    assert {label for row in readings for label in (row["first_label"], row["second_label"])} == {
        "refusal",
        "compliance",
        "neither",
    }
    assert sum(path.stat().st_size for path in folder.rglob("*.parquet")) < 20e6


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
