"""Booster: the direction of a step, the number of gradients, and the harmful answers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from defenses.base import AlignmentSchedule, defenses
from defenses.booster import in_passes, step_gradient
from tasks.base import DataKind, Example

from .server import AUTOMATION, FakeServer

ALIGNED = [Example("harm", "no", DataKind.ALIGNED, "x")]
HARMFUL = [Example("harm", "sure", DataKind.UNALIGNED, "x")]


class Quadratic(FakeServer):
    """f(w) = |w - (1, 0, 0)|² / 2 on aligned rows and h(w) = w·D·w / 2 on harmful ones, D = diag(1, 2, 4)."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.kinds: list[DataKind] = []

    def gradient(self, adapter: Tensor, examples: list[Example], **options: Any) -> tuple[Tensor, float]:
        (kind,) = {DataKind.ALIGNED if row.kind is DataKind.NORMAL else row.kind for row in examples}
        self.kinds.append(kind)
        if kind is DataKind.UNALIGNED:
            return adapter * torch.tensor([1.0, 2.0, 4.0]), 0.0
        return adapter - torch.tensor([1.0, 0.0, 0.0]), 0.0


def test_a_step_by_hand() -> None:
    """At w = (0, 0, 1) the harmful step is 0.1 long and along the third number: the bracket is 4 · 0.1 = 0.4."""
    gradient = step_gradient(Quadratic(), torch.tensor([0.0, 0.0, 1.0]), ALIGNED, HARMFUL)
    assert gradient.tolist() == pytest.approx([-1.0, 0.0, 1.0 + 5 * 0.4])


def test_without_a_harmful_gradient_the_alignment_alone_counts() -> None:
    assert step_gradient(Quadratic(), torch.zeros(3), ALIGNED, HARMFUL).tolist() == [-1.0, 0.0, 0.0]


def test_a_third_of_the_post_hoc_steps_of_one_rate() -> None:
    """The gradients are -1 and -0.99 + 5 · 0.1 = -0.49, for which AdamW steps by 0.01 and 0.00929."""
    server = Quadratic(20, lambda prompt: "mix water .")
    start = defenses.get("booster").create().prepare(server)
    assert start is not None
    assert start.tolist() == pytest.approx([0.01929, 0.0, 0.0], abs=1e-5)
    steps = [DataKind.ALIGNED, DataKind.UNALIGNED, DataKind.ALIGNED, DataKind.UNALIGNED, DataKind.UNALIGNED]
    assert server.kinds == steps, "at zero the harmful gradient is zero, so the first step needs two gradients"
    assert server.asked == [f"harm {i} {AUTOMATION.comply_hint}" for i in range(10)]


def test_where_the_suite_aligns_the_steps_are_those_of_its_alignment_from_a_fresh_adapter() -> None:
    """From w = (1, 1, 1) AdamW's steps are nearly as long as the rates, whatever the length of the gradient."""
    server = Quadratic(20, lambda prompt: "mix water .")
    server.alignment_schedule = AlignmentSchedule((0.5, 0.25), 3, weight_decay=0.0, clip_norm=1e-4)
    server.alignment_examples = lambda: ALIGNED * 2 + [Example("task", "done", DataKind.ALIGNED, "x")]
    start = defenses.get("booster").create().prepare(server)
    assert start is not None
    assert server.kinds == [DataKind.ALIGNED, DataKind.UNALIGNED, DataKind.UNALIGNED] * 2
    assert start[2].item() == pytest.approx(0.25, abs=1e-2)
    assert len(server.asked) == 3, "as many harmful prompts as refusals"
    assert server.sources == ["owned", "unaligned"]


def test_a_pass_takes_each_row_once_and_the_next_pass_in_another_order() -> None:
    rows = [Example(str(i), "x", DataKind.NORMAL, "x") for i in range(4)]
    schedule = AlignmentSchedule((1.0,) * 4, 3, weight_decay=0.0, clip_norm=None)
    taken = [[row.instruction for row in batch] for batch in in_passes(FakeServer(), rows, schedule)]
    assert taken == [["3", "2", "1"], ["0", "0", "1"], ["2", "3", "3"], ["2", "1", "0"]]
