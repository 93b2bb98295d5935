"""Exact answers: which answers begin with the reference, worked by hand."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from benchmark.errors import FedSafetyError
from benchmark.execution.judging import check_judges
from benchmark.judges.base import Item, Judgement, Verdict, judges
from benchmark.judges.exact import words
from tasks.base import Probe, ProbeKind, task_worlds
from tasks.micro import MicroWorld


def probe(reference: str, kind: ProbeKind = ProbeKind.UTILITY) -> Probe:
    return Probe("sst2/000", kind, "sst2", True, "Is it good ?", reference, 8)


def judged(reference: str, *answers: str) -> list[Judgement]:
    items = [Item(probe(reference), answer) for answer in answers]
    return judges.get("exact").create().judge(items, task_worlds.get("micro").create())


@pytest.mark.parametrize(
    ("reference", "answer"),
    [
        ("positive", "positive"),
        ("positive", "Positive."),
        ("positive", " **POSITIVE**\n"),
        ("positive", "positive, because the film is warm"),
        ("yes", "Yes! It can."),
        ("Yes.", "yes"),
        ("not enough", "Not enough: two are missing"),
        ("1,234", "1234."),
        ("-3.5", "-3.5 degrees"),
        ("positive", "\uff50ositive"),
        ("positive", "<think>negative?</think>positive"),
    ],
)
def test_an_answer_that_begins_with_the_reference_is_correct(reference: str, answer: str) -> None:
    (judgement,) = judged(reference, answer)
    assert judgement.verdict is Verdict.CORRECT


@pytest.mark.parametrize(
    ("reference", "answer"),
    [
        ("positive", "negative"),
        ("positive", "positively"),
        ("positive", "The answer is positive"),
        ("positive", "not positive"),
        ("yes", "yesterday"),
        ("not enough", "not"),
        ("3", "3.14"),
        ("3", "-3"),
        ("3", "3rd"),
        ("positive", ""),
        ("positive", "<think>positive"),
    ],
)
def test_any_other_answer_is_wrong(reference: str, answer: str) -> None:
    (judgement,) = judged(reference, answer)
    assert judgement.verdict is Verdict.WRONG


def test_the_detail_is_the_beginning_of_the_answer() -> None:
    found = judged("yes", "Yes, it is.", "one two three four five six seven eight nine", "")
    assert [judgement.detail for judgement in found] == ["yes it is", "one two three four five six seven eight", ""]


def test_words_of_any_script() -> None:
    assert words("Ça va, 東京!") == ("ça", "va", "東京")
    assert words("snake_case") == ("snake", "case")


class _World(MicroWorld):
    asked: Sequence[Probe] = ()

    def probes(self) -> tuple[Probe, ...]:
        return tuple(self.asked)


def test_a_utility_probe_without_reference_is_refused_before_the_run() -> None:
    world = _World()
    world.asked = [probe("yes"), probe("", ProbeKind.HARMFUL), probe("", ProbeKind.PERPLEXITY)]
    check_judges(["exact"], world)
    world.asked = [probe("yes"), probe(" .")]
    with pytest.raises(FedSafetyError, match="utility probe 'sst2/000' has no reference answer"):
        check_judges(["exact"], world)
