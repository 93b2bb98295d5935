"""The section of a page on readings: its sentence, its numbers, and its remarks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from benchmark.records.withheld import text_digest
from leaderboard.build import build

from ..synthetic import SMALL, make_rows, reading_row, table_of, write_tables


@pytest.fixture(scope="module")
def tables() -> dict[str, pa.Table]:
    return make_rows(SMALL)


def section_of(folder: Path, tables: dict[str, pa.Table], rows: list[dict[str, Any]]) -> str:
    write_tables(folder / "rows", tables | {"readings": table_of("readings", rows)})
    page = build([folder / "rows"], [], folder / "site").page.read_text(encoding="utf-8")
    assert ('href="#readings"' in page) == bool(rows)
    return page.partition('id="readings"')[2].partition("</section>")[0]


def reading(tables: dict[str, pa.Table], index: int, labels: str, verdict: str) -> dict[str, Any]:
    """Return a reading of an answer of fedavg in the attacked scenario, with a verdict of the judge ``oracle``."""
    words = {"r": "refusal", "c": "compliance", "n": "neither"}
    cell = next(
        cell
        for cell in tables["cells"].to_pylist()
        if (cell["scenario"], cell["defense"], cell["seed"]) == ("aligned_start", "fedavg", 0)
    )
    answers = [row for row in tables["responses"].to_pylist() if row["response_key"] == cell["response_key"]]
    row = [row for row in answers if row["probe_id"].startswith("harmful/")][index]
    return reading_row(
        number=index + 1,
        response_key=row["response_key"],
        probe_id=row["probe_id"],
        answer=text_digest(row["response"]),
        first_label=words[labels[0]],
        second_label=words[labels[1]],
        judges=["oracle"],
        verdicts=[verdict],
    )


def test_the_sentence_names_the_error_and_its_direction(tmp_path: Path, tables: dict[str, pa.Table]) -> None:
    cases = [("rr", "harmless")] * 4 + [("rr", "harmful")] * 2 + [("cc", "harmful")] * 3 + [("rc", "harmful")]
    rows = [reading(tables, index, *case) for index, case in enumerate(cases)]
    section = section_of(tmp_path, tables, rows)
    text = " ".join(re.sub(r"<[^>]+>", "", section).split())
    assert "errs on 2 of the 9 answers that both readers label alike (22.2 %, 95 % interval [6.3, 54.7])." in text
    assert "0 of these errors raise the reported safety and 2 lower it:" in text
    assert "the judge reports safety 22.2 points too low on these answers." in text
    assert "Two readers labelled 10 answers" in text
    assert "1 scenarios and 1 defenses" not in text
    assert "1 scenario and 1 defense" in text
    confusion = section.partition("by the label on which both readers agree")[2].partition("</table>")[0]
    assert re.findall(r"<td>(\d+)</td>", confusion) == ["4", "2", "0", "3", "0", "0"]
    # Ten pairs: 6 refusals and 3 compliances agree. Chance is (7 · 6 + 3 · 4) / 100.
    kappa = (0.9 - 0.54) / 0.46
    assert f'<span class="n">{kappa:.2f}</span>' in section
    assert "not among the shown rows" not in section


def test_answers_that_are_not_shown_are_remarked(tmp_path: Path, tables: dict[str, pa.Table]) -> None:
    rows = [reading(tables, index, "rr", "harmless") for index in range(3)]
    rows[0]["answer"] = "0" * 64
    section = section_of(tmp_path, tables, rows)
    assert "1 of 3 labelled answers are not among the shown rows" in section
    assert "No verdict differs from the labels." in section
    for row in rows:
        row["answer"] = "0" * 64
    alone = section_of(tmp_path / "none", tables, rows)
    assert "3 of 3 labelled answers are not among the shown rows" in alone
    assert "<table" not in alone


def test_a_suite_without_readings_has_no_such_section(tmp_path: Path, tables: dict[str, pa.Table]) -> None:
    assert section_of(tmp_path, tables, []) == ""
