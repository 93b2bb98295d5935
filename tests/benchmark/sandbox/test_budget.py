"""What tools do for one instance is bounded by what a suite can need."""

from __future__ import annotations

import pytest

from benchmark.automation import fill, propose
from benchmark.sandbox.budget import FINETUNES, Budget
from benchmark.sandbox.channel import ChannelError
from tasks.base import DataKind, Example

MICRO = 500
PAIR = Example("Say hello.", "Hello.", DataKind.NORMAL, "greeting")


def test_what_the_dearest_built_in_method_needs_is_granted() -> None:
    budget = Budget()

    def generate(prompts: list[str], temperature: float) -> list[str]:
        budget.answers(prompts, MICRO)
        return ["the same again"] * len(prompts)

    for _ in range(2):  # a model without ideas is asked most often
        propose(generate, ["Propose an instruction. " * 20], MICRO // 2)
        generate(["w " * 500] * (MICRO // 2), 0.0)
    rows = fill([PAIR], MICRO)
    budget.rows(len(rows), MICRO)
    budget.training(rows, MICRO)


def test_a_fine_tuning_in_each_of_a_hundred_rounds_is_granted_and_no_more() -> None:
    budget = Budget()
    for _ in range(FINETUNES):
        budget.rows(MICRO, MICRO)
        budget.training([PAIR] * MICRO, MICRO)
    with pytest.raises(ChannelError, match="fine-tunes more than 100 times"):
        budget.training([PAIR], MICRO)


def test_one_request_cannot_hold_the_run_up() -> None:
    with pytest.raises(ChannelError, match="more than 10,000 prompts answered"):
        Budget().answers(["w1"] * 100_000, MICRO)
    with pytest.raises(ChannelError, match="more than 20,000,000 characters read"):
        Budget().answers(["x" * 20_000] * 6_710, MICRO)
    with pytest.raises(ChannelError, match="asks for 100,000 rows at a time; at most 2,000 are given or taken"):
        Budget().training([PAIR] * 100_000, MICRO)
    with pytest.raises(ChannelError, match="more than 4,000,000 characters read"):
        Budget().training([Example("x" * 20_000, "y", DataKind.NORMAL, "long")] * 201, MICRO)


def test_requests_add_up() -> None:
    budget = Budget()
    for _ in range(10):
        budget.answers(["w1"] * 1_000, MICRO)
    with pytest.raises(ChannelError, match="more than 10,000 prompts answered"):
        budget.answers(["w1"], MICRO)
    for _ in range(100):
        budget.rows(2_000, MICRO)
    with pytest.raises(ChannelError, match="asks for more than 200,000 rows"):
        budget.rows(1, MICRO)


def test_a_suite_that_grants_next_to_nothing_leaves_room_for_trying() -> None:
    Budget().answers(["w1"] * 2_000, 6)
    with pytest.raises(ChannelError, match="more than 2,000 prompts answered"):
        Budget().answers(["w1"] * 2_001, 6)
