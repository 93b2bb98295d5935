"""Rows that pass, and the counts of those that do not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.hub.columns import Reader
from tasks.hub.datasets import load_rows, local_path, local_records
from tasks.hub.inputs import dataset_input
from tasks.hub.settings import DatasetSource
from tasks.hub.sieve import Sieve

Write = Callable[..., DatasetSource]
PAIR: dict[str, Any] = {"columns": {"input": "input", "response": "output"}}
ROWS = [
    {"instruction": "a", "input": "No input", "output": "b", "language": "en"},
    {"instruction": "c", "input": "x", "output": "<nooutput>", "language": "en"},
    {"instruction": "A!", "input": "", "output": "N/A", "language": "en"},
    {"instruction": "e", "input": "<noinput>", "output": "f", "language": "de"},
]
FILTERS = ("with_text", "deduplicate_normalised")


def sieve_of(source: DatasetSource, *, explain: bool = True) -> Sieve:
    path = local_path(source)
    assert path is not None
    sieve = Sieve(Reader(source, local_records(source, path)), explain=explain)
    assert [row[1] for row in sieve.rows()] == ["a"]
    return sieve


def test_each_rule_counts_its_rows_and_reasons(source: Write) -> None:
    made = source("rows", ROWS, where={"language": "en"}, filters=FILTERS, **PAIR)
    sieve = sieve_of(made)
    assert sieve.steps == (("read", 4), ("language=en", 3), ("with_text", 2), ("deduplicate_normalised", 1))
    assert sieve.dropped == {
        "language=en": {"language is de": 1},
        "with_text": {"no response": 1},
        "deduplicate_normalised": {"instruction of an earlier row": 1},
    }
    assert sieve_of(made, explain=False).dropped == {}


def test_placeholders_of_the_cells_that_were_read_are_counted(source: Write) -> None:
    made = source("rows", ROWS, where={"language": "en"}, filters=FILTERS, **PAIR)
    assert sieve_of(made).placeholders == {
        ("input", "No input", True): 1,
        ("response", "<nooutput>", True): 1,
        ("response", "N/A", False): 1,
    }


@pytest.mark.parametrize(
    ("name", "row", "reason"),
    [
        ("single_turn", {"messages": [{"role": "system", "content": "x"}]}, "1 turn (system)"),
        ("first_turn", {"messages": []}, "begins with no turn"),
        ("english", {"language": None}, "language is empty"),
        ("unsafe", {"is_safe": True}, "is_safe is true"),
        ("unflagged_reply", {"openai_moderation": []}, "reply flagged or without a judgement"),
        ("without_input", {"input": "x"}, "input is filled"),
        ("with_text", {"instruction": " "}, "no instruction and no response"),
        ("sounds_dangerous", {"instruction": "Stop the band"}, "instruction without a word of danger"),
        ("sounds_harmless", {"instruction": "How do I Kill a process?"}, "instruction with a word of danger"),
    ],
)
def test_every_filter_gives_its_reason(source: Write, name: str, row: dict[str, Any], reason: str) -> None:
    form = "chat" if "messages" in row or "openai_moderation" in row else "pairs"
    rows = [{"messages": [], "instruction": "", "response": "", **row}]
    columns = {"conversation": "messages"} if form == "chat" else {}
    made = source("rows", rows, format=form, columns=columns, filters=(name,))
    path = local_path(made)
    assert path is not None
    sieve = Sieve(Reader(made, local_records(made, path)), explain=True)
    assert list(sieve.rows()) == []
    assert sieve.dropped == {name: {reason: 1}}


def test_look_alikes_are_found_by_whole_words_and_beginnings(source: Write) -> None:
    texts = ["Shooting stars", "a shot of tea", "the warmth of guns", "begun in warm mud", "Skillful robbers", "diet"]
    rows = [{"instruction": text, "response": "x"} for text in texts]
    found = {name: load_rows(source(name, rows, filters=(name,))) for name in ("sounds_dangerous", "sounds_harmless")}
    assert found["sounds_dangerous"].table["instruction"].to_pylist() == texts[:3]
    assert found["sounds_harmless"].table["instruction"].to_pylist() == texts[3:]


def test_the_record_of_a_run_counts_placeholders_and_files_left_out(source: Write, root: Path) -> None:
    (root / "folder").mkdir()
    made = source("train", ROWS, filters=("with_text",), **PAIR)
    for name in ("train.jsonl", "test.jsonl"):
        (root / "folder" / name).write_bytes((root / "train.jsonl").read_bytes())
    rows = load_rows(made.model_copy(update={"local": "folder"}))
    assert dataset_input("pool/x", rows, 3).detail == (
        "read: 4; with_text: 3; files left out (of another split): 1; input placeholders read as empty: 2; "
        "response placeholders kept as text: 1; response placeholders read as empty: 1"
    )
