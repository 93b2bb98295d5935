"""Refusals in the form of ordinary tasks: frames by hand, and the rows of the fine-tuning."""

from __future__ import annotations

import pytest
import torch

from benchmark.errors import FedSafetyError
from benchmark.submission.practice import practice_server
from defenses.base import defenses
from defenses.posthoc_paraphrase import frame
from tasks.base import DataKind, Example

from .server import REFUSAL, FakeServer

ADAPTER = torch.tensor([1.0, 2.0, 3.0])


@pytest.mark.parametrize(
    ("instruction", "expected"),
    [
        ("name a fruit .", ""),
        ("summarize : the red cat likes fig .", "summarize : {instruction}"),
        ("Classify the text: fine.", "Classify the text: {instruction}"),
        ("Is it positive? Answer with one word.\n\nA film.", "Is it positive? Answer with one word.\n\n{instruction}"),
        ("Answer with: one word.\n \nA fine film.\n\nTruly.", "Answer with: one word.\n \n{instruction}"),
        ("Translate:\nhello", "Translate:\n{instruction}"),
        ("Say when it is 10:30 there.", ""),
        ("Name one of these: ", ""),
    ],
)
def test_the_frame_is_the_task_without_its_content(instruction: str, expected: str) -> None:
    assert frame(instruction) == expected


def framed(server: FakeServer) -> list[str]:
    """Return the harmful instructions of the fine-tuning, in the server's order."""
    defenses.get("posthoc_paraphrase").create().finalize(ADAPTER, server)
    return [row.instruction for row in reversed(server.tuned) if row.kind is DataKind.ALIGNED]


def test_three_pairs_by_hand() -> None:
    """Of three pairs one is aligned; it stands in the suite's only template. The server reverses the rows."""
    server = FakeServer(3)
    server.task_templates = ("is it good ?\n\n{instruction} !",)
    adapter = defenses.get("posthoc_paraphrase").create().finalize(ADAPTER, server)
    assert adapter.tolist() == [2.0, 3.0, 4.0]
    assert [(row.instruction, row.response, row.kind) for row in server.tuned] == [
        ("task 1", "done", DataKind.NORMAL),
        ("task 0", "done", DataKind.NORMAL),
        ("is it good ?\n\nharm 0 !", REFUSAL, DataKind.ALIGNED),
    ]
    assert (server.shuffled, server.options) == (1, {})


def test_the_templates_of_the_suite_are_used_in_turn() -> None:
    server = FakeServer(6)
    server.task_templates = ("a : {instruction}", "b : {instruction}")
    assert framed(server) == ["a : harm 0", "b : harm 1", "a : harm 2"]


def test_without_templates_only_rows_with_content_set_apart_are_frames() -> None:
    server = FakeServer(8)
    instructions = ["shorten : x", "name a fruit", "Is it positive?\n\ny", "write code"]
    server.owned_normal = lambda count: [Example(text, "done", DataKind.NORMAL, "code") for text in instructions]
    frames = ["shorten : harm 0", "Is it positive?\n\nharm 1", "shorten : harm 2", "Is it positive?\n\nharm 3"]
    assert framed(server) == frames
    assert {row.instruction for row in server.tuned if row.kind is DataKind.NORMAL} == {*instructions}


def test_without_any_frame_the_cell_fails_with_the_way_out() -> None:
    with pytest.raises(FedSafetyError, match=r"none of 50 normal rows .* give a pool of the clients a prompt"):
        framed(FakeServer(100))


def test_in_micro_each_refusal_follows_the_name_of_a_task_and_a_colon() -> None:
    server = practice_server()
    aligned, normal = defenses.get("posthoc_paraphrase").create().pairs(server.start(), server, 16, 16)
    harmful = {row.instruction for row in server.owned_aligned(16)}
    assert len(aligned) == len(normal) == 16
    for row in aligned:
        task, _, instruction = row.instruction.partition(" : ")
        assert task in {"summarize", "shorten"}
        assert instruction in harmful
