"""A report on data names the rows that a suite would read, and the place where reading would stop."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmark.errors import FedSafetyError, UsageError
from tasks.hub.inspection import DataReport, inspect_data
from tasks.hub.settings import DatasetSource


def report_on(path: Path, rows: list[dict[str, Any]] | None = None, **settings: Any) -> DataReport:
    if rows is not None:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return inspect_data(path, DatasetSource(repository="local/data", **settings))


def test_everything_that_a_suite_would_read(tmp_path: Path) -> None:
    rows = [
        {"instruction": "a", "input": "noinput", "output": "b", "topic": "x"},
        {"instruction": "c", "input": "", "output": "", "topic": "y"},
    ]
    columns = {"input": "input", "response": "output"}
    report = report_on(tmp_path / "a.jsonl", rows, columns=columns, filters=("with_text",))
    assert report.error is None
    assert report.columns == ("instruction", "input", "output", "topic")
    assert report.mapping == {"instruction": "instruction", "response": "output", "input": "input"}
    assert report.unread == ("topic",)
    assert report.steps == (("read", 2), ("with_text", 1))
    assert report.dropped == {"with_text": {"no response": 1}}
    assert report.first_rows == [{"id": "0001", "instruction": "a", "response": "b"}]
    assert report.emptied == {"input": {"noinput": 1}}
    assert report.advice == ""


def test_the_first_bad_row_ends_the_report(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"instruction": "a", "response": "b"}, {"instruction": ["c"], "response": "d"}]
    report = report_on(tmp_path / "a.jsonl", rows)
    assert len(report.first_rows) == 1
    assert str(report.error).startswith(f"{tmp_path / 'a.jsonl'}, row 2: instruction (column 'instruction') is a list")


def test_files_of_a_folder_and_the_row_in_a_file(tmp_path: Path) -> None:
    for name in ("train-1", "train-2", "test"):
        report_on(tmp_path / f"{name}.jsonl", [{"instruction": name, "response": name.removeprefix("train-2")}])
    report = report_on(tmp_path)
    assert report.files == ("train-1.jsonl", "train-2.jsonl")
    assert report.left_out == (("test.jsonl", "of another split"),)
    assert str(report.error).startswith(f"{tmp_path / 'train-2.jsonl'}, row 1: no text for response")


@pytest.mark.parametrize(
    ("row", "advice"),
    [
        ({"question": "a", "answer": "b"}, "--column instruction=question --column response=answer"),
        ({"instruction": "a", "input": "", "output": "b"}, "--column response=output --column input=input"),
        ({"question": "a", "answer": True}, "--format prompts --column instruction=question"),
        (
            {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
            "--format chat --column conversation=messages",
        ),
        ({"dialogue": "a: b"}, ""),
        ({"x": "y"}, ""),
    ],
)
def test_columns_of_common_names_get_an_advice_that_works(tmp_path: Path, row: dict[str, Any], advice: str) -> None:
    report = report_on(tmp_path / "a.jsonl", [row])
    assert isinstance(report.error, UsageError)
    assert report.advice == advice


@pytest.mark.parametrize(
    ("answers", "advice"),
    [
        (["b", ""], "--column instruction=question --column response=answer --filter with_text"),
        (["b", True], "--format prompts --column instruction=question"),
        (["", ""], "--format prompts --column instruction=question"),
    ],
)
def test_an_advice_works_for_all_rows(tmp_path: Path, answers: list[object], advice: str) -> None:
    path = tmp_path / "a.jsonl"
    assert report_on(path, [{"question": "a", "answer": answer} for answer in answers]).advice == advice


def test_nothing_there_and_nothing_left(tmp_path: Path) -> None:
    for name in ("none", "x" * 300, "a\0b"):
        assert "there is no file or folder" in str(report_on(tmp_path / name).error)
    rows = [{"instruction": "a", "response": "b", "language": "de"}]
    report = report_on(tmp_path / "a.jsonl", rows, filters=("english",))
    assert isinstance(report.error, FedSafetyError)
    assert "is left: 1 read, english left 0" in str(report.error)
    assert report.dropped == {"english": {"language is de": 1}}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"format": "chat", "columns": {"instruction": "q"}},
            "format 'chat' does not read 'instruction', to which 'q'",
        ),
        ({"columns": {"conversation": "q"}}, "format 'pairs' does not read 'conversation'"),
        ({"format": "prompts", "response": "x", "columns": {"response": "q"}}, "leave one out"),
    ],
)
def test_mapped_columns_are_read_or_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    rows = [{"conversation": [], "instruction": "a", "response": "b", "q": "c"}]
    assert message in str(report_on(tmp_path / "a.jsonl", rows, **settings).error)
