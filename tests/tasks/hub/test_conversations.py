"""Conversations are read in the conventions that people have, or refused by what was found."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from benchmark.errors import FedSafetyError
from tasks.hub.conversations import read_turns
from tasks.hub.datasets import load_rows
from tasks.hub.settings import DatasetSource

Write = Callable[..., DatasetSource]
CHAT: dict[str, Any] = {"format": "chat", "columns": {"conversation": "messages"}}
USER, REPLY = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}
READ = [("user", "Hi"), ("assistant", "Yo")]


@pytest.mark.parametrize(
    "value",
    [
        [USER, REPLY],
        [{"role": "User", "content": "Hi"}, {"role": "Assistant", "content": " Yo "}],
        [{"from": "human", "value": "Hi"}, {"from": "chatgpt", "value": "Yo"}],
        [{"role": "prompter", "text": "Hi"}, {"role": "model", "text": "Yo"}],
        [
            {"role": "user", "content": "Hi", "from": None, "value": None},
            {"role": None, "content": None, "from": "gpt", "value": "Yo"},
        ],
        [
            {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "Yo"}]},
        ],
        {"role": ["user", "assistant"], "content": ["Hi", "Yo"]},
        json.dumps([USER, REPLY]),
        json.dumps([USER, REPLY]).encode(),
    ],
)
def test_conventions_agree(value: object) -> None:
    assert [*read_turns(value)] == READ


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("Hi", "text was found"),
        (str([USER, REPLY]), "the Python source of a list was found .*; write it as JSON"),
        (7, "a number was found"),
        ({"role": "user", "content": "Hi"}, "an object with role, content was found"),
        ({"role": ["user"], "content": ["Hi", "Yo"]}, "differ in length"),
        (["Hi", "Yo"], "turn 1 is text"),
        ([USER, None], "turn 2 is null"),
        ([{"role": "user", "message": "Hi"}], "turn 1 has role, message"),
        ([{**USER, "value": "Ho"}], "^turn 1 has different texts in content and value; keep"),
        ([{**USER, "from": "gpt"}], "^turn 1 has different texts in role and from; keep"),
        (
            [{"role": "user", "content": {"a": 1}}],
            "^the content of turn 1 is an object, not text; write it as text or as a ",
        ),
        ([{"role": ["x"], "content": "Hi"}], "^the role of turn 1 is a list, not text; write it as text$"),
        (
            [{"role": "user", "content": [7]}],
            "the content of turn 1 has a part that is a number, not text; write it as",
        ),
    ],
)
def test_what_is_no_conversation_says_what_was_found(value: object, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        list(read_turns(value))


@pytest.mark.parametrize("role", ["system", "developer", "Developer"])
def test_an_empty_system_turn_is_no_turn(source: Write, role: str) -> None:
    rows = [{"messages": [{"role": role, "content": ""}, USER, REPLY]}]
    for filters in ((), ("first_turn",), ("single_turn",)):
        (row,) = load_rows(source("rows", rows, filters=filters, **CHAT)).table.to_pylist()
        assert (row["instruction"], row["response"]) == ("Hi", "Yo")


def test_roles_that_do_not_fit_are_named_with_a_way_out_that_works(source: Write) -> None:
    rows = [{"messages": [{"role": "system", "content": "Be kind"}, USER, REPLY]}, {"messages": [USER, REPLY]}]
    with pytest.raises(FedSafetyError, match=r"row 1: 3 turns \(system, user, assistant\).*leave such rows out"):
        load_rows(source("rows", rows, **CHAT))
    for name in ("single_turn", "first_turn"):
        loaded = load_rows(source("rows", rows, filters=(name,), **CHAT))
        assert loaded.table["instruction"].to_pylist() == ["Hi"]


@pytest.mark.parametrize(
    "name", ["tool_calls", "images", "input_audio", "attachments", "reasoning_content", "thinking"]
)
def test_a_turn_that_is_more_than_its_text_is_no_plain_answer(source: Write, name: str) -> None:
    rows = [{"messages": [USER, {**REPLY, name: [{"id": "x"}]}]}]
    with pytest.raises(FedSafetyError, match=rf"2 turns \(user, assistant with {name}\)"):
        load_rows(source("rows", rows, **CHAT))
    assert [*read_turns([USER, {**REPLY, name: float("nan")}])] == READ


def test_an_empty_conversation_has_no_turn(source: Write) -> None:
    rows = [{"messages": None}, {"messages": [USER, REPLY]}]
    with pytest.raises(FedSafetyError, match=r"row 1: no turn in the conversation; .* add the filter with_text"):
        load_rows(source("rows", rows, **CHAT))
    assert len(load_rows(source("rows", rows, filters=("with_text",), **CHAT))) == 1


@pytest.mark.parametrize("part", [{"type": "image_url", "image_url": "x"}, {"type": "thinking", "thinking": "x"}])
def test_a_filter_leaves_out_turns_with_parts_that_hold_no_text(source: Write, part: dict[str, Any]) -> None:
    kind = part["type"]
    text = {"type": "text", "text": "Yo"}
    rows = [{"messages": [USER, {"role": "assistant", "content": [part, text]}]}, {"messages": [USER, REPLY]}]
    with pytest.raises(FedSafetyError, match=rf"row 1: 2 turns \(user, assistant with {kind}\).*leave such rows out"):
        load_rows(source("rows", rows, **CHAT))
    for name in ("single_turn", "first_turn"):
        assert len(load_rows(source("rows", rows, filters=(name,), **CHAT))) == 1


def test_first_turn_reads_no_later_turn(source: Write) -> None:
    later = [{"role": "user", "content": "a", "value": "b"}]
    rows = [{"messages": [USER, REPLY, *later], "openai_moderation": [{}, {"categories": {}}]}]
    for filters in (("first_turn",), ("with_text", "first_turn", "unflagged_reply")):
        assert len(load_rows(source("rows", rows, filters=filters, **CHAT))) == 1
    with pytest.raises(FedSafetyError, match="row 1: turn 3"):
        load_rows(source("rows", rows, **CHAT))


def test_known_roles_are_listed_where_a_role_is_unknown(source: Write) -> None:
    known = r"; known roles are user, human, prompter for the question and assistant, gpt, .* for the answer"
    with pytest.raises(FedSafetyError, match=rf"2 turns \(user, sage\).*{known}"):
        load_rows(source("rows", [{"messages": [USER, {"role": "sage", "content": "Yo"}]}], **CHAT))
    with pytest.raises(FedSafetyError, match=r"its answer$"):
        load_rows(source("rows", [{"messages": [{"role": "developer", "content": "Be kind"}, USER, REPLY]}], **CHAT))
