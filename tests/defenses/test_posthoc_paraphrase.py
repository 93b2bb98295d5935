"""Refusals in the form of ordinary tasks: frames by hand, and the rows of the fine-tuning."""

from __future__ import annotations

import pytest
import torch

from defenses.base import defenses
from defenses.posthoc_paraphrase import frame
from tasks.base import DataKind, Example

from .server import REFUSAL, FakeServer


@pytest.mark.parametrize(
    ("instruction", "expected"),
    [
        ("name a fruit .", "name a fruit ."),
        ("summarize : the red cat likes fig .", "summarize :"),
        ("Classify the text: fine.", "Classify the text:"),
        ("Is it positive? Answer with one word.\n\nA fine film.", "Is it positive? Answer with one word."),
        ("Answer with: one word.\n \nA fine film.\n\nTruly.", "Answer with: one word."),
        ("Translate:\nhello", "Translate:"),
        ("Say when it is 10:30 there.", "Say when it is 10:30 there."),
    ],
)
def test_the_frame_is_the_task_without_its_content(instruction: str, expected: str) -> None:
    assert frame(instruction) == expected


def test_three_pairs_by_hand() -> None:
    """Of three pairs one is aligned; it stands in the frame of the first normal row. The server reverses the rows."""
    server = FakeServer(3)
    server.owned_normal = lambda count: [
        Example(f"shorten : text {i}", "done", DataKind.NORMAL, "code") for i in range(count)
    ]
    adapter = defenses.get("posthoc_paraphrase").create().finalize(torch.tensor([1.0, 2.0, 3.0]), server)
    assert adapter.tolist() == [2.0, 3.0, 4.0]
    assert [(row.instruction, row.response, row.kind) for row in server.tuned] == [
        ("shorten : text 1", "done", DataKind.NORMAL),
        ("shorten : text 0", "done", DataKind.NORMAL),
        ("shorten :\n\nharm 0", REFUSAL, DataKind.ALIGNED),
    ]
    assert (server.shuffled, server.options) == (1, {})


def test_each_refusal_has_the_frame_of_another_normal_row() -> None:
    server = FakeServer(100)
    defenses.get("posthoc_paraphrase").create().finalize(torch.tensor([1.0, 2.0, 3.0]), server)
    aligned = {row.instruction for row in server.tuned if row.kind is DataKind.ALIGNED}
    assert aligned == {f"task {i}\n\nharm {i}" for i in range(50)}
