"""Prompts made of columns, answers made of values, references and targets of probe sets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from benchmark.errors import FedSafetyError, UsageError
from tasks.base import ProbeKind
from tasks.hub.datasets import load_rows
from tasks.hub.inspection import inspect_data
from tasks.hub.probes import make_probes
from tasks.hub.settings import DatasetSource, HubData, ProbeSource

Write = Callable[..., DatasetSource]
REVIEWS = [
    {"idx": 4, "sentence": "a gem", "label": 1, "meta": {"year": 1999}},
    {"idx": 7, "sentence": "a {bore}", "label": 0, "meta": {"year": 2001}},
]
PROMPT = "Review of {meta.year}: {sentence}\nGood {{or}} bad?"


def test_a_prompt_is_filled_and_values_become_answers(source: Write) -> None:
    made = source("reviews", REVIEWS, prompt=PROMPT, columns={"response": "label"}, answers={0: "bad", 1: "good"})
    rows = load_rows(made).table.to_pylist()
    assert [row["instruction"] for row in rows] == [
        "Review of 1999: a gem\nGood {or} bad?",
        "Review of 2001: a {bore}\nGood {or} bad?",
    ]
    assert [row["response"] for row in rows] == ["good", "bad"]
    assert {row["alone"] for row in rows} == {""}
    pairs = load_rows(made).examples([1], "reviews")
    assert (pairs[0].instruction, pairs[0].response) == ("Review of 2001: a {bore}\nGood {or} bad?", "bad")


def test_a_probe_set_has_references_and_targets(source: Write) -> None:
    settings = {"format": "prompts", "prompt": "{sentence}?", "answers": {"1.0": "good", 0: "bad"}}
    columns = {"id": "idx", "reference": "label", "target": "sentence"}
    reviews = source("reviews", REVIEWS, **settings, columns=columns)
    probes = make_probes(ProbeSource(id="reviews", kind=ProbeKind.UTILITY, stratum="reviews", source=reviews))
    assert [(probe.id, probe.reference, probe.target) for probe in probes] == [
        ("reviews/4", "good", "a gem"),
        ("reviews/7", "bad", "a {bore}"),
    ]
    plain = source("plain", REVIEWS, format="prompts", columns={"instruction": "sentence"})
    probes = make_probes(ProbeSource(id="plain", kind=ProbeKind.UTILITY, stratum="plain", source=plain))
    assert {(probe.reference, probe.target) for probe in probes} == {("", "")}


@pytest.mark.parametrize(
    ("values", "answers"),
    [
        ([True, False], {True: "yes", False: "no"}),
        (["True", "FALSE"], {"true": "yes", "false": "no"}),
        ([1, 0.0], {"1": "yes", "0": "no"}),
    ],
)
def test_values_are_compared_as_conditions_compare_them(source: Write, values: list[Any], answers: Any) -> None:
    rows = [{"instruction": f"q{n}", "answer": value} for n, value in enumerate(values)]
    made = source("booleans", rows, columns={"response": "answer"}, answers=answers)
    assert load_rows(made).table["response"].to_pylist() == ["yes", "no"]


def test_rows_with_empty_cells_are_refused_or_left_out(source: Write) -> None:
    rows = [*REVIEWS, {"sentence": "", "label": 1, "meta": {"year": 2000}}, {"sentence": "x", "meta": {"year": 2000}}]
    settings = {"prompt": PROMPT, "columns": {"response": "label"}, "answers": {0: "bad", 1: "good"}}
    with pytest.raises(FedSafetyError, match=r"row 3: no text for instruction; mend the row or the columns, or add"):
        load_rows(source("reviews", rows, **settings))
    with pytest.raises(FedSafetyError, match="row 3: no text for response"):
        load_rows(source("others", [*REVIEWS, rows[3]], **settings))
    probes = {**settings, "format": "prompts", "columns": {"reference": "label"}}
    with pytest.raises(FedSafetyError, match="row 3: no text for reference"):
        load_rows(source("probes", [*REVIEWS, rows[3]], **probes))
    assert len(load_rows(source("reviews", rows, **settings, filters=("with_text",)))) == 2
    assert len(load_rows(source("probes", rows, **probes, filters=("with_text",)))) == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompt": "{sentense}"}, r"unknown column of .*'sentense'; did you mean 'sentence'"),
        ({"prompt": "{meta}"}, r"row 1: meta \(column 'meta'\) is an object, not text; reach inside it with \.<key>"),
        (
            {"answers": {1: "good"}},
            r"row 2: response \(column 'label'\) is '0', for which no answer is named; answers has 1",
        ),
        ({"columns": {"response": "label", "target": "idx"}}, r"format 'pairs' does not read 'target'"),
        (
            {"format": "prompts", "columns": {"response": "label", "reference": "label"}},
            r"maps both response and reference, and a probe has one expected answer; leave one out",
        ),
    ],
)
def test_prompts_and_answers_that_do_not_fit_the_rows(source: Write, settings: dict[str, Any], message: str) -> None:
    fitting = {"prompt": "{sentence}", "columns": {"response": "label"}, "answers": {0: "bad", 1: "good"}}
    with pytest.raises(FedSafetyError, match=message):
        load_rows(source("reviews", REVIEWS, **(fitting | settings)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"prompt": "Good or bad?"},
            r"prompt 'Good or bad\?' names no column; write \{column\} where its text belongs",
        ),
        ({"prompt": "{x:>5}"}, r"\{x:…\} in prompt is not \{column\}; write a brace that is text twice"),
        ({"prompt": "{}"}, r"\{\} in prompt is not \{column\}"),
        ({"prompt": "{x"}, r"expected '\}' before end of string"),
        ({"prompt": "{x}", "columns": {"input": "y"}}, r"leave out the mapping of instruction and input"),
        ({"prompt": "{x}", "format": "chat"}, r"do not use format 'chat'"),
        ({"answers": {"A": "x", "a": "y"}}, r"two answers are named for the value 'a'; keep one"),
        ({"answers": {"a": ""}}, r"at least 1 character"),
        (
            {"answers": {"a": "x"}, "format": "prompts"},
            r"answers need a column; map response or, in a probe set, refer",
        ),
        ({"answers": {"a": "x"}, "format": "chat", "columns": {"response": "y"}}, r"leave out response and format"),
    ],
)
def test_settings_that_contradict_themselves(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DatasetSource(repository="o/x", **settings)


def test_pools_have_no_references(source: Write) -> None:
    pool = source("reviews", REVIEWS, format="prompts", columns={"instruction": "sentence", "reference": "label"})
    with pytest.raises(
        ValidationError, match=r"pool 'reviews' maps reference, which only probe sets have; map response"
    ):
        HubData(pools={"reviews": pool})


def test_the_report_on_data_shows_the_prompt(source: Write) -> None:
    made = source("reviews", REVIEWS, prompt=PROMPT, columns={"response": "label"}, answers={0: "bad", 1: "good"})
    report = inspect_data(Path(load_rows(made).name), made)
    assert report.mapping == {"instruction": PROMPT, "response": "label"}
    assert report.unread == ("idx",)
    assert report.error is None


def test_a_table_of_glue(root: Path) -> None:
    (root / "glue.tsv").write_text('sentence\tlabel\nit \'s "good , really\t1\n"bad , truly\t0\n', encoding="utf-8-sig")
    made = DatasetSource(repository="o/x", local="glue.tsv", columns={"instruction": "sentence", "response": "label"})
    assert load_rows(made).table["instruction"].to_pylist() == ["it 's \"good , really", '"bad , truly']
    with pytest.raises(UsageError, match="did you mean 'sentence'"):
        load_rows(made.model_copy(update={"columns": {"instruction": "sentance", "response": "label"}}))
