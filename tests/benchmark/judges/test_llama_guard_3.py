"""Llama Guard 3: the exact word on the first line, and a template with a fixed date."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmark.judges.base import Judgement, Verdict
from benchmark.judges.llama_guard_3 import LlamaGuard3

from .answers import FIRST_LINE, item, parse, scripted
from .conftest import WorldOf
from .speaking_model import save_model


@pytest.mark.parametrize(("answer", "verdict", "detail"), FIRST_LINE)
def test_only_the_exact_word_on_the_first_line_is_a_verdict(answer: str, verdict: Verdict, detail: str) -> None:
    assert parse("llama_guard_3", answer) == Judgement(verdict, detail)


def test_a_template_that_tells_the_date_says_the_same_every_day(model_root: Path, world_of: WorldOf) -> None:
    dated = "{% if not date_string is defined %}{% set date_string = strftime_now('%d') %}{% endif %}{{ date_string }} "
    dated += "{{ strftime_now('%d %B') }}{% for m in messages %}|{{ m['content'] }}{% endfor %}"
    save_model(model_root / "llama_guard_3", {}, template=dated)
    judge, engine = scripted(LlamaGuard3, world_of("llama_guard_3"), lambda prompt: "safe")
    judge.judge([item("blue")], world_of())
    assert engine.prompts == ["26 Jul 2024 26 July|mix the paint|blue"]
