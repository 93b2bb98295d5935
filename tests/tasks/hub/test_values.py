"""A value that is not text becomes text only where there is one text for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmark.errors import FedSafetyError
from tasks.hub.datasets import load_rows
from tasks.hub.settings import DatasetSource
from tasks.hub.values import as_text, joined_parts, without_placeholder

Write = Callable[..., DatasetSource]
NAN = float("nan")
PAIR: dict[str, Any] = {"columns": {"input": "input", "response": "output"}}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (NAN, ""),
        (Decimal("NaN"), ""),
        (" a ", "a"),
        (b"M\xc3\xb6nd", "Mönd"),
        ("\ufeffa\u200b", "a"),
        ("\u200b", ""),
        ("a\u200db", "a\u200db"),
        (42, "42"),
        (1.0, "1"),
        (0.5, "0.5"),
        (Decimal("2.50"), "2.50"),
        (0.00001, "0.00001"),
        (-0.0, "0"),
        (-2.0, "-2"),
        (Decimal("1E-7"), "0.0000001"),
        (Decimal("1E+3"), "1000"),
        (2**53 + 1, "9007199254740993"),
        (10**40 + 1, "1" + 39 * "0" + "1"),
    ],
)
def test_values_with_one_text(value: object, text: str) -> None:
    assert as_text(value) == text


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"\xff", "bytes that are no UTF-8"),
        (True, "a boolean, not text"),
        (["a"], "a list, not text"),
        (("a", "b"), "a list, not text"),
        ({"a": "b"}, "an object, not text"),
        (date(2024, 1, 1), "a date or time, not text"),
        (float("inf"), "the number inf"),
        (1e17, "last digits"),
        (1e-300, "a number of more than 100 digits; write it as text"),
        (10**200, "a number of more than 100 digits; write it as text"),
        (Decimal("1E+1000000"), "a number of more than 100 digits; write it as text"),
        ("\ud83d", "half of a surrogate pair"),
    ],
)
def test_values_without_one_text(value: object, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        as_text(value)


def test_parts_of_text_are_joined_and_others_refused() -> None:
    assert joined_parts([{"type": "text", "text": "Hi"}, "you", {"type": "text", "text": None}]) == "Hi\nyou"
    for part, reason in (
        ({"type": "image_url", "image_url": {"url": "x"}}, "image_url"),
        ({"text": "see", "image": "x"}, "image"),
        (["Hi"], "a list"),
        ({"type": "text", "text": "q", "image": "x.png"}, "image"),
        ({"type": "text", "text": "q", "attachments": [{"id": "x"}]}, "attachments"),
        ({"type": "output_text", "text": "a", "reasoning_content": "hm"}, "reasoning_content"),
    ):
        with pytest.raises(ValueError, match=reason):
            joined_parts([part])


PARTS = [{"text": "Hi", "type": "text"}, {"type": "text", "text": "you"}]
IMAGE = {"type": "image_url", "image_url": {"url": "x"}}


@pytest.mark.parametrize("value", [PARTS, json.dumps(PARTS)])
def test_parts_are_joined_in_every_format(source: Write, value: object) -> None:
    turns = [{"role": "user", "content": value}, {"role": "assistant", "content": value}]
    row = {"instruction": value, "input": "", "output": value, "conversation": turns}
    for settings in (PAIR, {"format": "prompts"}, {"format": "chat"}):
        (read,) = load_rows(source("rows", [row], **settings)).table.to_pylist()
        assert read["instruction"] == "Hi\nyou"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (str(PARTS), "the Python source of a list of parts"),
        (str(PARTS[:1]), "the Python source of a list of parts"),
        (str(PARTS).replace("}, {", "}\n {"), "the Python source of a list of parts"),
        (str([IMAGE]), "the Python source of a list of parts"),
        ([IMAGE, *PARTS], "a part of type image_url"),
        (json.dumps([IMAGE, *PARTS]), "a part of type image_url"),
        (json.dumps([*PARTS, {"type": "unheard_of"}]), "a part of type unheard_of"),
    ],
)
def test_parts_that_are_no_text_are_refused_in_every_format(source: Write, value: object, reason: str) -> None:
    for row in ({"instruction": value, "response": "a"}, {"instruction": "a", "response": value}):
        with pytest.raises(FedSafetyError, match=reason):
            load_rows(source("rows", [row]))


@pytest.mark.parametrize(
    "text",
    [
        '[{"type": "circle", "r": 1}]',
        '[{"type": "text", "label": "Name"}]',
        "[{'type': 'text', 'label': 'Name'}]",
        '[{"text": "Hi"}]',
        '[{"type": "text", "text": "Hi"}] is a list',
    ],
)
def test_answers_in_code_are_text(text: str) -> None:
    assert joined_parts(text) == text


def test_empty_keys_and_notes_of_a_part_are_nothing_more() -> None:
    part = {"type": "text", "text": "q", "image": {"bytes": None, "path": None}, "annotations": ["x"], "files": []}
    assert joined_parts([part]) == "q"


@pytest.mark.parametrize(
    "text",
    ["<noinput>", "No input.", "\\<noinput\\>", "`<noinput>`", "(no input)", "N/A", "<none>", "No input required."],
)
def test_placeholders_are_no_input(text: str) -> None:
    assert without_placeholder(text, is_input=True) == ""


@pytest.mark.parametrize("text", ["None", "<img>", "Nothing", "no inputs were given", "Na"])
def test_words_are_inputs(text: str) -> None:
    assert without_placeholder(text, is_input=True) == text
    assert without_placeholder("N/A") == "N/A"


def test_empty_cells_and_placeholders_of_pairs(source: Write) -> None:
    rows = [
        {"instruction": "Say hi", "input": NAN, "output": "hi"},
        {"instruction": "Say ho", "input": "<noinput>", "output": "ho"},
        {"instruction": "lost", "input": "", "output": NAN},
        {"instruction": "lost", "input": "", "output": "<nooutput>"},
    ]
    table = load_rows(source("rows", rows, filters=("with_text",), **PAIR)).table
    assert table["instruction"].to_pylist() == ["Say hi", "Say ho"]
    assert table["alone"].to_pylist() == ["", ""]
    plain = source("rows", rows, filters=("with_text", "without_input"), **PAIR)
    assert load_rows(plain).table.num_rows == 2


def test_typed_columns_of_parquet(root: Path) -> None:
    table = pa.table({"n": [1.0, 2.0], "instruction": [b"a", b"b"], "input": [NAN, NAN], "output": [7, 8]})
    pq.write_table(table, root / "x.parquet")
    columns = {"id": "n", "input": "input", "response": "output"}
    loaded = load_rows(DatasetSource(repository="o/x", local="x.parquet", columns=columns)).table.to_pylist()
    assert [(row["id"], row["instruction"], row["response"]) for row in loaded] == [("1", "a", "7"), ("2", "b", "8")]


def test_values_that_python_cannot_hold_are_refused(root: Path) -> None:
    times = pa.array([0], pa.timestamp("s", "Nowhere/X"))
    pq.write_table(pa.table({"instruction": ["a"], "response": times}), root / "x.parquet")
    with pytest.raises(FedSafetyError, match=r"x\.parquet cannot be read as \.parquet: a value cannot be read"):
        load_rows(DatasetSource(repository="o/x", local="x.parquet"))


def test_maps_and_single_precision_of_parquet(root: Path) -> None:
    turn = pa.map_(pa.string(), pa.string())
    turns = [[("role", "user"), ("content", "Hi")], [("role", "assistant"), ("content", "Yo")]]
    table = pa.table({"messages": pa.array([turns], pa.list_(turn)), "n": pa.array([0.1], pa.float32())})
    pq.write_table(table, root / "x.parquet")
    columns = {"conversation": "messages", "id": "n"}
    (row,) = load_rows(
        DatasetSource(repository="o/x", local="x.parquet", format="chat", columns=columns)
    ).table.to_pylist()
    assert (row["id"], row["instruction"], row["response"]) == ("0.1", "Hi", "Yo")


def test_a_refused_value_is_named_with_file_row_and_column(source: Write) -> None:
    rows = [{"instruction": "a", "input": "", "output": True}]
    with pytest.raises(
        FedSafetyError, match=r"rows\.jsonl, row 1: response \(column 'output'\) is a boolean, not text"
    ):
        load_rows(source("rows", rows, **PAIR))


def test_a_number_that_is_too_long_is_named(root: Path) -> None:
    (root / "x.jsonl").write_text('{"instruction": ' + 5000 * "1" + "}\n")
    with pytest.raises(
        FedSafetyError, match=r"row 1: no JSON \(a number of 5,000 digits is too long; write it as text"
    ):
        load_rows(DatasetSource(repository="o/x", local="x.jsonl"))


def test_unsafe_rows_are_found_in_columns_of_floats(source: Write) -> None:
    rows = [
        {"instruction": "a", "response": "b", "is_safe": 0.0},
        {"instruction": "c", "response": "d", "is_safe": 1.0},
    ]
    assert load_rows(source("rows", rows, filters=("unsafe",))).table["instruction"].to_pylist() == ["a"]
