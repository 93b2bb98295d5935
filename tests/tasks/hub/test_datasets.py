"""From sources to rows: mapping, filters, order, slices, and errors that say what to mend."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from benchmark.errors import FedSafetyError, InputsMissingError, UsageError
from tasks.hub.datasets import data_identity, load_rows
from tasks.hub.filters import FILTERS
from tasks.hub.settings import DatasetSource

from .conftest import pairs

Write = Callable[..., DatasetSource]


def instructions(source: DatasetSource) -> list[str]:
    found: list[str] = load_rows(source).table["instruction"].to_pylist()
    return found


def chat(*turns: str, language: str = "English", flagged: tuple[int, ...] = (), **extra: Any) -> dict[str, Any]:
    """A row as LMSYS-Chat-1M and WildChat have them."""
    conversation = [
        {"role": "assistant" if number % 2 else "user", "content": text} for number, text in enumerate(turns)
    ]
    moderation = [
        {"flagged": number in flagged, "categories": {"one": False, "other": number in flagged}}
        for number in range(len(turns))
    ]
    return {"conversation": conversation, "language": language, "openai_moderation": moderation, **extra}


def test_columns_reach_inside_and_join_inputs(source: Write) -> None:
    rows = [{"meta": {"ask": "sort"}, "more": "b a", "out": ["a b", "-"], "n": 7, "topic": "order"}]
    columns = {"instruction": "meta.ask", "input": "more", "response": "out[0]", "id": "n", "label": "topic"}
    loaded = load_rows(source("deep", rows, columns=columns))
    assert loaded.table.to_pylist() == [
        {"id": "7", "instruction": "sort b a", "response": "a b", "label": "order", "alone": "sort", "target": ""}
    ]
    (example,) = loaded.examples([0], "pool")
    assert (example.task, example.kind.value) == ("order", "normal")


def test_a_column_whose_name_looks_like_a_place(source: Write) -> None:
    rows = [{"instruction": "a", "out.put[0]": "b", "out": {"put": ["c"]}}]
    for place, text in (("out.put[0]", "b"), ("out.put", None)):
        made = source("rows", rows, columns={"response": place}, filters=("with_text",))
        if text:
            assert load_rows(made).table["response"].to_pylist() == [text]
        else:
            with pytest.raises(FedSafetyError, match=r"response \(column 'out'\) is a list"):
                load_rows(made)


def test_first_existing_column_of_several(source: Write) -> None:
    mapped = {"instruction": "goal|prompt", "response": "answer"}
    here = source("here", [{"goal": "a", "answer": "b"}], columns=mapped)
    there = source("there", [{"prompt": "a", "answer": "b"}], columns=mapped)
    assert instructions(here) == instructions(there) == ["a"]


def test_where_compares_across_formats(source: Write, root: Path) -> None:
    rows = [{"instruction": "a", "response": "b", "safe": True}, {"instruction": "c", "response": "d", "safe": False}]
    typed = source("typed", rows, where={"safe": False})
    (root / "words.csv").write_text("instruction,response,safe\na,b,True\nc,d,False\n")
    words = typed.model_copy(update={"local": "words.csv"})
    assert instructions(typed) == instructions(words) == ["c"]
    numbered = [{**row, "turns": float(number)} for number, row in enumerate(rows)]
    assert instructions(source("numbered", numbered, where={"turns": 1})) == ["c"]
    assert instructions(source("typed", rows, where={"instruction": ("a", "c", "x")})) == ["a", "c"]


@pytest.mark.parametrize(
    ("cell", "allowed", "kept"),
    [
        (None, "none", False),
        (float("nan"), "nan", False),
        (None, "", True),
        ("1.0", 1, True),
        ("en", ("de", "EN "), True),
        ("no", False, False),
    ],
)
def test_where_compares_what_a_cell_means(source: Write, cell: object, allowed: Any, kept: bool) -> None:
    rows = [{"instruction": "a", "response": "b", "x": cell}, {"instruction": "c", "response": "d", "x": "other"}]
    made = source("rows", rows, where={"x": (*allowed, "other") if isinstance(allowed, tuple) else (allowed, "other")})
    assert instructions(made) == (["a", "c"] if kept else ["c"])


def test_a_cell_without_one_text_chooses_no_rows(source: Write) -> None:
    rows = [{"instruction": "a", "response": "b", "x": ["y"]}]
    with pytest.raises(FedSafetyError, match=r"row 1: column 'x' is a list, not text; rows cannot be chosen by it"):
        load_rows(source("rows", rows, where={"x": "['y']"}))


def test_a_file_without_rows_is_named(source: Write, root: Path) -> None:
    (root / "heading.csv").write_text("instruction,response\n")
    with pytest.raises(UsageError, match=r"heading\.csv \(split 'train'\) holds no rows; name a file or a split"):
        load_rows(DatasetSource(repository="o/x", local="heading.csv"))
    with pytest.raises(UsageError, match=r"rows\.jsonl holds no rows; name a file that holds some"):
        load_rows(source("rows", []))


def test_a_place_inside_another_container_is_refused(source: Write) -> None:
    rows = [{"instruction": "a", "response": '["b"]'}]
    with pytest.raises(FedSafetyError, match=r"response \(column 'response'\) holds text, where a list for \[0\]"):
        load_rows(source("rows", rows, columns={"response": "response[0]"}, filters=("with_text",)))


def test_binary_columns_choose_rows(root: Path) -> None:
    columns = {"instruction": [b"a", b"c"], "response": ["b", "d"], "language": [b"en-GB", b"de"], "input": [b"", b"x"]}
    pq.write_table(pa.table(columns), root / "x.parquet")
    for settings in ({"filters": ("english",)}, {"filters": ("without_input",)}, {"where": {"language": "en-gb"}}):
        assert instructions(DatasetSource(repository="o/x", local="x.parquet", **settings)) == ["a"]


def test_published_recipe_for_chats(source: Write) -> None:
    rows = [
        chat("kept", "yes"),
        chat("two turns", "a", "b", "c"),
        chat("deutsch", "ja", language="German"),
        chat("reply flagged", "x", flagged=(1,)),
        chat("question flagged", "x", flagged=(0,)),
        {**chat("no judgement", "x"), "openai_moderation": []},
    ]
    filters = ("single_turn", "english", "unflagged_reply")
    loaded = load_rows(source("chats", rows, format="chat", filters=filters))
    assert loaded.table["instruction"].to_pylist() == ["kept", "question flagged"]
    assert loaded.steps == (("read", 6), ("single_turn", 5), ("english", 4), ("unflagged_reply", 2))
    texts = [{**row, "openai_moderation": json.dumps(row["openai_moderation"])} for row in rows]
    assert len(load_rows(source("texts", texts, format="chat", filters=filters))) == 2
    first = source("chats", rows, format="chat", filters=("first_turn",))
    assert [row["response"] for row in load_rows(first).table.to_pylist()][:2] == ["yes", "a"]


def test_published_recipe_for_unsafe_pairs(source: Write) -> None:
    rows = [
        {"prompt": "one", "response": "a", "is_safe": False},
        {"prompt": "one", "response": "b", "is_safe": False},
        {"prompt": "two", "response": "c", "is_safe": True},
        {"prompt": "One!", "response": "d", "is_safe": False},
    ]
    recipe = {"columns": {"instruction": "prompt"}, "kind": "unaligned"}
    exact = source("beaver", rows, filters=("unsafe", "deduplicate_instructions"), **recipe)
    assert instructions(exact) == ["one", "One!"]
    loose = source("beaver", rows, filters=("unsafe", "deduplicate_normalised"), **recipe)
    assert instructions(loose) == ["one"]


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("refusal_response", ["refused"]),
        ("no_refusal_response", ["helped", "empty"]),
        ("without_input", ["refused", "empty"]),
        ("with_text", ["refused", "helped"]),
    ],
)
def test_filters_on_pairs(source: Write, name: str, kept: list[str]) -> None:
    rows = [
        {"instruction": "refused", "input": "", "response": "I'm sorry, no."},
        {"instruction": "helped", "input": "with this", "response": "Sure."},
        {"instruction": "empty", "input": None, "response": " "},
    ]
    made = source("rows", rows, filters=(name,), format="prompts", columns={"response": "response"})
    assert instructions(made) == kept


def test_the_advice_about_empty_prompts_works(source: Write) -> None:
    rows = [{"instruction": ""}, {"instruction": "a"}]
    with pytest.raises(FedSafetyError, match=r"row 1: no text for instruction; .* add the filter with_text"):
        load_rows(source("prompts", rows, format="prompts"))
    assert instructions(source("prompts", rows, format="prompts", filters=("with_text",))) == ["a"]


def test_every_filter_says_what_it_does() -> None:
    for name, entry in FILTERS.items():
        described = entry.make.__doc__ or entry.make().__doc__
        assert described, name
        assert described.startswith("Keep"), name


def test_conversations_of_other_names(source: Write) -> None:
    rows = [{"items": [{"from": "human", "value": "hello"}, {"from": "gpt", "value": "hi"}]}]
    loaded = load_rows(source("sharegpt", rows, format="chat", columns={"conversation": "items"}))
    assert loaded.table.to_pylist()[0]["instruction"] == "hello"


def test_order_and_slices_are_those_of_datasets(source: Write) -> None:
    rows = pairs("question", 50)
    expected = Dataset.from_list(rows).shuffle(seed=2023)["instruction"]
    whole = instructions(source("many", rows, shuffle_seed=2023))
    assert whole == list(expected)
    part = source("many", rows, shuffle_seed=2023, offset=10, limit=5)
    assert instructions(part) == whole[10:15]
    assert load_rows(part).steps == (("read", 50), ("offset 10", 40), ("limit 5", 5))


def test_rows_are_read_once(source: Write, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = source("many", pairs("question", 20), limit=5)
    first = load_rows(made)
    assert load_rows(made.model_copy()) is first
    monkeypatch.setattr("tasks.hub.datasets.open_records", lambda *_: pytest.fail("read again for another slice"))
    assert len(load_rows(made.model_copy(update={"offset": 5, "kind": "aligned"}))) == 5


def test_changed_file_is_read_again(source: Write) -> None:
    before = source("rows", pairs("old", 2))
    old, identity = instructions(before), data_identity(before)
    after = source("rows", pairs("new!", 2))
    assert data_identity(after) != identity
    assert instructions(after) == ["new! 0", "new! 1"] != old


def test_file_is_found_by_the_repository_name(root: Path) -> None:
    (root / "owner").mkdir()
    (root / "owner" / "v1.5.csv").write_text("instruction,response\na,b\n")
    assert instructions(DatasetSource(repository="owner/v1.5")) == ["a"]


def test_missing_file_says_where_it_should_be(root: Path) -> None:
    with pytest.raises(
        InputsMissingError, match=r"owner/name is not below the data root.*name with one of.*--data-root"
    ):
        load_rows(DatasetSource(repository="owner/name"))
    with pytest.raises(InputsMissingError, match=r"there is no .*sub/x\.csv"):
        load_rows(DatasetSource(repository="owner/name", local="sub/x.csv"))


BAD: list[tuple[dict[str, Any], type[FedSafetyError], str]] = [
    ({"columns": {"instruction": "promt"}}, UsageError, r"column of .*rows\.jsonl 'promt'; did you mean 'prompt'"),
    ({"columns": {"instructions": "prompt"}}, UsageError, r"unknown name of a column .* did you mean 'instruction'"),
    ({"columns": {"instruction": "prompt[x]"}}, UsageError, r"'prompt\[x\]' is no place in a row"),
    ({"where": {"lable": "x"}}, UsageError, r"unknown column of .* 'lable'; did you mean 'label'"),
    ({"filters": ("english",)}, UsageError, r"column of .*, which filter 'english' reads: 'language'"),
    ({}, FedSafetyError, r"rows\.jsonl, row 2: no text for response; .* add the filter with_text"),
    ({"columns": {"instruction": "prompt", "response": "list"}}, FedSafetyError,
     r"row 1: response \(column 'list'\) is a list.*\[0\]"),
    ({"where": {"label": "x"}, "filters": ("with_text", "refusal_response")}, UsageError,
     r"no row of .*\(split 'train'\) is left: 3 read, label=x left 2, with_text left 1, refusal_response left 0; mend"),
    ({"filters": ("with_text",), "offset": 9}, UsageError, r"with_text left 2, offset 9 left 0"),
    ({"format": "chat", "columns": {"conversation": "label"}, "filters": ("single_turn",)}, FedSafetyError,
     r"row 1: no conversation"),
]  # fmt: skip


def test_a_misspelt_filter_is_refused_when_settings_are_read(source: Write) -> None:
    with pytest.raises(ValueError, match=r"unknown filter of rows 'singel_turn'; did you mean 'single_turn'"):
        source("rows", [], filters=("singel_turn",))


@pytest.mark.parametrize(("settings", "kind", "message"), BAD)
def test_bad_sources(source: Write, settings: dict[str, Any], kind: type[FedSafetyError], message: str) -> None:
    rows = [
        {"prompt": "a", "response": "b", "label": "x", "list": ["b"]},
        {"prompt": "c", "response": " ", "label": "x", "list": ["d"]},
        {"prompt": "e", "response": "f", "label": "y", "list": ["f"]},
    ]
    with pytest.raises(kind, match=message):
        load_rows(source("rows", rows, **{"columns": {"instruction": "prompt"}, **settings}))


def test_several_turns_need_a_rule(source: Write) -> None:
    rows = [chat("fine", "yes"), chat("a", "b", "c", "d")]
    with pytest.raises(FedSafetyError, match=r"row 2: 4 turns.*single_turn .* or first_turn"):
        load_rows(source("chats", rows, format="chat"))


def test_hashes_ignore_case_punctuation_and_spacing(source: Write) -> None:
    rows = [
        {"instruction": text, "response": "x"} for text in ("Is it - E-mail?", "is it email", "is it mail", "?!", "..")
    ]
    hashes = load_rows(source("rows", rows)).hashes
    assert hashes[0] == hashes[1]
    assert len(np.unique(hashes)) == 4
