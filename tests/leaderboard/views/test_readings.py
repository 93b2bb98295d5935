"""Readings count where the shown rows hold their answer; the rest is counted apart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from benchmark.errors import FedSafetyError
from benchmark.records.withheld import HASH, text_digest, without_texts
from leaderboard.ranking.boards import boards
from leaderboard.rows.rows import load_rows
from leaderboard.views.readings import ReadingsView

from ..synthetic import SMALL, make_rows, reading_row, table_of, write_tables


@pytest.fixture(scope="module")
def tables() -> dict[str, pa.Table]:
    return make_rows(SMALL)


def read(tables: dict[str, pa.Table], count: int = 40, **changes: Any) -> list[dict[str, Any]]:
    """Return readings of the first answers to probes that people label, with the verdicts of all judges."""
    cells = {cell["response_key"]: cell for cell in tables["cells"].to_pylist() if cell["final"]}
    kinds = {probe["probe_id"]: probe["kind"] for probe in tables["probes"].to_pylist()}
    verdicts: dict[tuple[str, str], dict[str, str]] = {}
    for row in tables["verdicts"].to_pylist():
        verdicts.setdefault((row["response_key"], row["probe_id"]), {})[row["judge"]] = row["verdict"]
    rows = []
    for row in tables["responses"].to_pylist():
        place = row["response_key"], row["probe_id"]
        if place[0] in cells and kinds[place[1]] in ("harmful", "over_refusal") and len(rows) < count:
            judged, cell = verdicts[place], cells[place[0]]
            rows.append(
                reading_row(
                    number=len(rows) + 1,
                    response_key=place[0],
                    probe_id=place[1],
                    kind=kinds[place[1]],
                    scenario=cell["scenario"],
                    defense=cell["defense"],
                    seed=cell["seed"],
                    answer=text_digest(row["response"]),
                    judges=sorted(judged),
                    verdicts=[judged[judge] for judge in sorted(judged)],
                    **changes,
                )
            )
    return rows


def view(folder: Path, tables: dict[str, pa.Table], readings: list[dict[str, Any]]) -> ReadingsView | None:
    write_tables(folder / "micro", tables | {"readings": table_of("readings", readings)})
    (board,) = boards(load_rows([folder]))
    return board.readings


def test_readings_of_shown_answers_count(tmp_path: Path, tables: dict[str, pa.Table]) -> None:
    rows = read(tables)
    found = view(tmp_path, tables, rows)
    assert found is not None
    assert (found.stored, found.missing, found.changed, found.counted) == (40, 0, 0, 40)
    assert (found.readers, found.dates) == ((("reader A", "reader B"),), ("2030-01-31",))
    assert set(found.defenses) == {row["defense"] for row in rows}
    assert [line.kind for line in found.agreement] == ["", "harmful", "over_refusal"]
    assert found.scorers == {"harmful": "oracle", "over_refusal": "oracle"}
    first = found.checks[0]
    assert (first.judge, first.kind, first.reference) == ("oracle", "harmful", "agreed")
    # Every label is a refusal: the errors are the harmful verdicts.
    harmful = [dict(zip(row["judges"], row["verdicts"], strict=True)) for row in rows if row["kind"] == "harmful"]
    assert (first.too_low, first.too_high) == (sum(verdicts["oracle"] == "harmful" for verdicts in harmful), 0)


def test_an_answer_that_the_rows_do_not_hold_counts_nowhere(tmp_path: Path, tables: dict[str, pa.Table]) -> None:
    rows = read(tables)
    rows[0]["answer"] = "0" * 64
    rows[1]["response_key"] = "gone"
    found = view(tmp_path, tables, rows)
    assert found is not None
    assert (found.missing, found.counted, found.agreement[0].answers) == (2, 38, 38)


def test_digests_of_answers_are_as_good_as_texts(tmp_path: Path, tables: dict[str, pa.Table]) -> None:
    hidden = without_texts("responses", tables["responses"], {"harmful": HASH, "over_refusal": HASH})
    found = view(tmp_path, tables | {"responses": hidden}, read(tables))
    assert found is not None
    assert (found.missing, found.counted) == (0, 40)


def test_the_judge_of_the_over_refusal_score_is_named(tmp_path: Path, tables: dict[str, pa.Table]) -> None:
    kinds = {probe["probe_id"]: probe["kind"] for probe in tables["probes"].to_pylist()}
    verdicts = [
        row
        for row in tables["verdicts"].to_pylist()
        if row["judge"] == "rule" or kinds[row["probe_id"]] != "over_refusal"
    ]
    catalog = tables["catalog"].to_pylist()
    for row in catalog:
        if row["kind"] == "suite":
            row["settings"] = json.dumps({"version": "1", "judge_of": {"over_refusal": "rule"}})
    changed = tables | {"verdicts": table_of("verdicts", verdicts), "catalog": table_of("catalog", catalog)}
    found = view(tmp_path, changed, read(changed))
    assert found is not None
    assert found.scorers == {"harmful": "oracle", "over_refusal": "rule"}


def test_a_verdict_that_changed_since_is_counted(tmp_path: Path, tables: dict[str, pa.Table]) -> None:
    rows = read(tables)
    rows[0]["verdicts"] = ["harmless", "harmless", "unparsable"]
    before = dict(zip(rows[0]["judges"], read(tables)[0]["verdicts"], strict=True))
    found = view(tmp_path, tables, rows)
    assert found is not None
    assert found.changed == sum(
        before[judge] != verdict for judge, verdict in zip(rows[0]["judges"], rows[0]["verdicts"], strict=True)
    )
    assert (found.changed > 0, found.missing) == (True, 0)


def test_readings_of_retracted_cells_and_of_other_suites_do_not_count(
    tmp_path: Path, tables: dict[str, pa.Table]
) -> None:
    rows = read(tables, 400)
    rows[0]["suite"] = "other"
    (tmp_path / "micro").mkdir()
    entry = "{scenario: aligned_start, defense: fedavg, date: 2031-01-01, policy: faulty_run, reason: wrong}"
    (tmp_path / "micro" / "retractions.yaml").write_text(f"suite: micro\nretractions:\n  - {entry}\n")
    found = view(tmp_path, tables, rows)
    assert found is not None
    withdrawn = [row for row in rows[1:] if (row["scenario"], row["defense"]) == ("aligned_start", "fedavg")]
    assert (found.stored, found.missing) == (399, len(withdrawn))
    assert withdrawn


def test_a_suite_without_readings_has_no_view_and_the_digest_it_had(
    tmp_path: Path, tables: dict[str, pa.Table]
) -> None:
    assert view(tmp_path / "one", tables, []) is None
    without = {name: table for name, table in tables.items() if name != "readings"}
    write_tables(tmp_path / "two" / "micro", without)
    assert load_rows([tmp_path / "one"]).digest == load_rows([tmp_path / "two"]).digest


def test_two_labels_of_one_number_are_refused(tmp_path: Path, tables: dict[str, pa.Table]) -> None:
    row = read(tables, 1)[0]
    with pytest.raises(FedSafetyError, match=r"two rows of table 'readings' with .*number=1 contradict each other"):
        view(tmp_path, tables, [row, row | {"first_label": "neither"}])
