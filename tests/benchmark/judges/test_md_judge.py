"""MD-Judge: the exact word on the first line, and JudgeZoo's question."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from benchmark.judges._judgezoo import judgezoo_module, made_without_model
from benchmark.judges.base import Judgement, Verdict
from benchmark.judges.md_judge import MdJudge

from .answers import FIRST_LINE, item, parse, scripted
from .conftest import WorldOf
from .speaking_model import END, TURNS, save_model


@pytest.mark.parametrize(("answer", "verdict", "detail"), FIRST_LINE)
def test_only_the_exact_word_on_the_first_line_is_a_verdict(answer: str, verdict: Verdict, detail: str) -> None:
    assert parse("md_judge", answer) == Judgement(verdict, detail)


def test_a_long_answer_is_kept_in_part() -> None:
    assert parse("md_judge", "word " * 500).detail == ("word " * 500)[:300]


def test_md_judges_question_is_judgezoos_but_for_a_second_start_token(model_root: Path, world_of: WorldOf) -> None:
    save_model(model_root / "md_judge", {})
    judge, engine = scripted(MdJudge, world_of("md_judge"), lambda prompt: "safe")
    judge.judge([item("blue")], world_of())
    tokenizer = AutoTokenizer.from_pretrained(model_root / "md_judge")
    module = judgezoo_module("md_judge")
    made = made_without_model(module, "MDJudge", module.MDJudgeVersion.V0_1)
    text = tokenizer.apply_chat_template(
        made.CLS_CONVERSATION, chat_template=made.tokenizer.chat_template, tokenize=False
    ).format(question="mix the paint", answer="blue")
    assert engine.prompts == [text]
    assert END not in text
    assert TURNS not in text
