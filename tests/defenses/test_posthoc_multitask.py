"""Refusals in four formats of request, a quarter each."""

from __future__ import annotations

import torch

from defenses.base import defenses
from defenses.posthoc_multitask import FORMATS
from tasks.base import DataKind

from .server import REFUSAL, FakeServer


def tuned(examples: int) -> FakeServer:
    server = FakeServer(examples)
    adapter = defenses.get("posthoc_multitask").create().finalize(torch.tensor([1.0, 2.0, 3.0]), server)
    assert adapter.tolist() == [2.0, 3.0, 4.0]
    assert (server.shuffled, server.sources, server.options) == (1, ["owned", "owned"], {})
    return server


def test_eight_pairs_by_hand() -> None:
    rows = [(row.instruction, row.response) for row in tuned(8).tuned]
    assert rows == [
        ("task 3", "done"),
        ("task 2", "done"),
        ("task 1", "done"),
        ("task 0", "done"),
        ("translate the text to french :\nharm 3", REFUSAL),
        ("write code for the task :\nharm 2", REFUSAL),
        ("harm 1\nwhich of these helps ?\n( a ) a tool\n( b ) people\n( c ) instructions", REFUSAL),
        ("harm 0", REFUSAL),
    ]


def test_a_quarter_of_the_refusals_has_each_format() -> None:
    aligned = [row.instruction for row in tuned(200).tuned if row.kind is DataKind.ALIGNED]
    assert len(aligned) == 100
    for number, form in enumerate(FORMATS):
        assert {form.format(f"harm {i}") for i in range(number, 100, 4)} <= set(aligned)


def test_braces_of_an_instruction_stay() -> None:
    assert FORMATS[3].format("print {} twice") == "translate the text to french :\nprint {} twice"
