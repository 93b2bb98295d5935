"""The automated data pipeline: distinct proposals, filtered answers, repeated to the count."""

from __future__ import annotations

from benchmark.automation import answer, fill, propose
from tasks.base import DataKind, Example


def test_proposals_are_distinct_normalised_and_in_order() -> None:
    batches = [["how  to a ?", "how to a ?", " ", "how to b ?", "", "how to a ?"], ["how to c ?"] * 6]
    asked: list[tuple[list[str], float]] = []

    def generate(prompts: list[str], temperature: float) -> list[str]:
        asked.append((prompts, temperature))
        return batches[len(asked) - 1]

    assert propose(generate, ("x", "y"), 3) == ["how to a ?", "how to b ?", "how to c ?"]
    assert asked == [(["x", "y", "x", "y", "x", "y"], 1.0)] * 2


def test_no_more_proposals_than_wanted() -> None:
    assert propose(lambda prompts, _: [str(i) for i in range(len(prompts))], ("x",), 3) == ["0", "1", "2"]


def test_a_model_without_ideas_is_asked_three_times() -> None:
    calls = []

    def generate(prompts: list[str], temperature: float) -> list[str]:
        calls.append(temperature)
        return ["the same"] * len(prompts)

    assert propose(generate, ("x",), 5) == ["the same"]
    assert len(calls) == 3
    assert propose(lambda prompts, _: [""] * len(prompts), ("x",), 5) == []


def test_answers_are_greedy_under_the_suffix_which_is_not_stored() -> None:
    asked: list[tuple[list[str], float]] = []

    def generate(prompts: list[str], temperature: float) -> list[str]:
        asked.append((prompts, temperature))
        return ["yes", " ", "no"]

    pairs = answer(generate, ["a", "b", "c"], "be safe .", DataKind.ALIGNED, lambda text: text != "no")
    assert pairs == [Example("a", "yes", DataKind.ALIGNED, "generated")]
    assert asked == [(["a be safe .", "b be safe .", "c be safe ."], 0.0)]
    assert answer(lambda p, _: p, ["a"], "", DataKind.NORMAL, lambda _: True)[0].response == "a"


def test_filling_repeats_in_turn_and_makes_nothing_of_nothing() -> None:
    a, b = (Example(name, "", DataKind.NORMAL, "") for name in "ab")
    assert fill([a, b], 5) == [a, b, a, b, a]
    assert fill([a, b], 1) == [a]
    assert fill([], 5) == []
