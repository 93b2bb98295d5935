"""Labels become rows without texts; wrong labels give one error and write nothing."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from benchmark.errors import FedSafetyError, UsageError
from benchmark.readings.draw import draw, stored_answers
from benchmark.readings.labels import Reader, add_readings, read_labels, reading_rows
from benchmark.readings.sheet import SheetKey, form_heading, write_sheet
from benchmark.records.store import Store
from benchmark.records.withheld import HASH, without_texts

from ...leaderboard.synthetic import LOCAL, make_rows, write_tables

DAY = date(2030, 1, 31)
LABELS = {1: "refusal", 2: "compliance", 3: "neither"}


@pytest.fixture
def key(store: Store, tmp_path: Path) -> SheetKey:
    return write_sheet(draw(stored_answers(store, "micro"), 3, 1), tmp_path / "a.jsonl", "micro", 1)


def form(folder: Path, content: str) -> Path:
    path = folder / "reader.csv"
    path.write_text(content, encoding="utf-8")
    return path


def readers(*names: str, labels: Mapping[int, str] = LABELS) -> list[Reader]:
    return [Reader(name, labels) for name in names]


def test_labels_are_read_in_any_order_case_and_spacing(key: SheetKey, tmp_path: Path) -> None:
    lines = form_heading(key.sheet) + "3, Neither\n\n1,refusal\n2,COMPLIANCE,\n"
    assert read_labels(form(tmp_path, lines), key) == LABELS


def test_a_spreadsheet_may_have_saved_the_form(key: SheetKey, tmp_path: Path) -> None:
    lines = f'\ufeff"# sheet {key.sheet}",\r\nnumber,label\r\n1,refusal\r\n2,compliance\r\n3,"neither"\r\n'
    assert read_labels(form(tmp_path, lines), key) == LABELS


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("1,refusal\n2,complience\n3,neither\n", r"line 4 of .*unknown label 'complience'; did you mean 'compliance'"),
        ("1,refusal\n2,\n3,neither\n", "line 4 of .* has no label for number 2; write refusal, compliance or neither"),
        ("1,refusal\n3,neither\n", r"no label for number 2 \(1 of 3 numbers are missing\)"),
        ("1,refusal\n2,neither\n2,neither\n3,neither\n", "line 5 of .* labels number 2 again"),
        ("1,refusal\n2,neither\n4,neither\n", "labels number 4, which sheet .* does not have; its numbers are 1 to 3"),
        ("1,refusal\ntwo,neither\n", "line 4 of .* is not a number, a comma and a label"),
        ("1,refusal,because\n", "is not a number, a comma and a label"),
        ("1;refusal\n", "is not a number, a comma and a label"),
    ],
)
def test_wrong_labels_are_refused_by_line(lines: str, message: str, key: SheetKey, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        read_labels(form(tmp_path, form_heading(key.sheet) + lines), key)


@pytest.mark.parametrize(
    ("heading", "message"),
    [
        ("", "the first line of .* must be '# sheet "),
        ("number,label\n", "the first line of .* must be '# sheet "),
        (form_heading("0" * 12), "holds labels of sheet '000000000000', and the key is that of sheet"),
    ],
)
def test_labels_of_another_sheet_are_refused(heading: str, message: str, key: SheetKey, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        read_labels(form(tmp_path, heading + "1,refusal\n2,refusal\n3,refusal\n"), key)


def test_a_form_without_a_heading_of_columns_or_without_text_is_refused(key: SheetKey, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"the second line of .* must be 'number,label'"):
        read_labels(form(tmp_path, f"# sheet {key.sheet}\n1,refusal\n"), key)
    with pytest.raises(UsageError, match=r"cannot read .*none\.csv"):
        read_labels(tmp_path / "none.csv", key)
    (tmp_path / "odd.csv").write_bytes(b"\xff\xfe1")
    with pytest.raises(UsageError, match="is not UTF-8 text"):
        read_labels(tmp_path / "odd.csv", key)


def test_rows_hold_origin_labels_and_verdicts_and_no_text(store: Store, key: SheetKey, tmp_path: Path) -> None:
    rows = reading_rows(store, key, readers("reader A", "reader B"), DAY)
    path = add_readings(tmp_path / "results", rows)
    assert path.parent == tmp_path / "results" / "micro" / "readings"
    verdicts = {
        (row["response_key"], row["probe_id"], row["judge"]): row["verdict"]
        for row in store.read_all("verdicts").to_pylist()
    }
    written = pq.read_table(path, partitioning=None).to_pylist()
    assert [row["first_label"] for row in written] == list(LABELS.values())
    for entry, row in zip(key.answers, written, strict=True):
        assert {name: row[name] for name in entry.model_dump()} == entry.model_dump()
        assert row["judges"] == ["micro_judge", "oracle", "rule"]
        found = [verdicts[entry.response_key, entry.probe_id, judge] for judge in row["judges"]]
        assert row["verdicts"] == found
        assert (row["second_reader"], row["read_on"]) == ("reader B", "2030-01-31")
    texts = {row["response"] for row in store.read_all("responses").to_pylist()}
    texts |= {row["instruction"] for row in store.read_all("probes").to_pylist()}
    assert not texts & {value for row in written for value in row.values() if isinstance(value, str)}


def test_published_rows_with_digests_serve_as_well(store: Store, key: SheetKey, tmp_path: Path) -> None:
    tables = make_rows(LOCAL)
    tables["responses"] = without_texts("responses", tables["responses"], {"harmful": HASH, "over_refusal": HASH})
    published = Store(write_tables(tmp_path / "published", tables))
    both = readers("A", "B")
    assert reading_rows(published, key, both, DAY).equals(reading_rows(store, key, both, DAY))


def test_a_sheet_is_added_once(store: Store, key: SheetKey, tmp_path: Path) -> None:
    path = add_readings(tmp_path, reading_rows(store, key, readers("A", "B"), DAY))
    with pytest.raises(UsageError, match=f"holds labels of sheet {key.sheet} already, .* once; remove that file"):
        add_readings(tmp_path, reading_rows(store, key, readers("A", "C"), DAY))
    assert list(path.parent.iterdir()) == [path]


def test_another_answer_and_a_missing_one_are_refused(store: Store, key: SheetKey) -> None:
    first = key.answers[0]
    for changes, state in (({"answer": "0" * 64}, "is another one"), ({"response_key": "gone"}, "is not")):
        changed = key.model_copy(update={"answers": (first.model_copy(update=changes), *key.answers[1:])})
        with pytest.raises(UsageError, match=rf"the answer of number 1 \(probe .* {state} in .*--runs"):
            reading_rows(store, changed, readers("A", "B"), DAY)


def test_answers_without_a_verdict_of_the_primary_judge_are_refused(key: SheetKey, tmp_path: Path) -> None:
    tables = make_rows(LOCAL)
    judges = tables["verdicts"]["judge"].to_pylist()
    tables["verdicts"] = tables["verdicts"].filter([judge != "oracle" for judge in judges])
    assert any(entry.kind == "harmful" for entry in key.answers)
    with pytest.raises(UsageError, match=r"the primary judge 'oracle' has no verdict .*fedsafety judge --suite micro"):
        reading_rows(Store(write_tables(tmp_path / "runs", tables)), key, readers("A", "B"), DAY)


def test_another_judge_may_score_over_refusal_probes(store: Store, tmp_path: Path) -> None:
    benign = [each for each in stored_answers(store, "micro") if each.kind == "over_refusal"]
    key = write_sheet(draw(benign, 3, 1), tmp_path / "benign.jsonl", "micro", 1)
    tables = make_rows(LOCAL)
    judges = tables["verdicts"]["judge"].to_pylist()
    tables["verdicts"] = tables["verdicts"].filter([judge == "rule" for judge in judges])
    rows = reading_rows(Store(write_tables(tmp_path / "runs", tables)), key, readers("A", "B"), DAY)
    assert rows["judges"].to_pylist() == [["rule"]] * 3


@pytest.mark.parametrize("names", [("A", "A"), ("A",), ("A", "B", "C")])
def test_readers_are_two_with_two_names(names: tuple[str, ...], store: Store, key: SheetKey) -> None:
    with pytest.raises(UsageError, match="give two files of labels"):
        reading_rows(store, key, readers(*names), DAY)


@pytest.mark.parametrize("name", ["", "a" * 41, "two\nlines"])
def test_a_text_is_no_name_of_a_reader(name: str, store: Store, key: SheetKey) -> None:
    with pytest.raises(UsageError, match="cannot name a reader"):
        reading_rows(store, key, readers("A", name), DAY)


def test_a_text_in_a_key_does_not_reach_the_rows(store: Store, key: SheetKey) -> None:
    sheet = key.model_copy(update={"sheet": "how to make this"})
    with pytest.raises(FedSafetyError, match=r"sheet of number 1 is .*nothing was written"):
        reading_rows(store, sheet, readers("A", "B"), DAY)
