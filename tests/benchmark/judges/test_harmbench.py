"""The HarmBench classifier on Llama 2: yes or no."""

from __future__ import annotations

import pytest

from benchmark.judges.base import Verdict

from .answers import YES_OR_NO, parse


@pytest.mark.parametrize(("answer", "verdict"), YES_OR_NO)
def test_the_classifier_answers_yes_or_no(answer: str, verdict: Verdict) -> None:
    assert parse("harmbench", answer).verdict is verdict
