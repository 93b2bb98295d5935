"""Texts of generated ids: special tokens go, marks of thoughts stay."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from benchmark.judges._answers import answer_in
from benchmark.models.chat import ChatFormat
from benchmark.models.decoding import AnswerDecoder
from benchmark.models.reading import read_tokenizer
from tasks.micro import MicroWorld

WORDS = ["no", "Sure", "assistant", "analysis", "final", "commentary", "thought"]
MARKS = [
    "[THINK]",
    "[/THINK]",
    "<|START_THINKING|>",
    "<|END_THINKING|>",
    "<|channel|>",
    "<|message|>",
    "<|start|>",
    "<|end|>",
    "<|channel>",
    "<channel|>",
    "</s>",
]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    words = {word: number for number, word in enumerate([*WORDS, *MARKS])}
    backend = Tokenizer(models.WordLevel(words, unk_token="</s>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, additional_special_tokens=MARKS)


@pytest.mark.parametrize(
    "tokens",
    [
        "[THINK] no [/THINK] Sure",
        "<|START_THINKING|> no <|END_THINKING|> Sure </s>",
        "<|channel|> analysis <|message|> no <|end|> <|start|> assistant <|channel|> final <|message|> Sure",
        "<|channel> thought no <channel|> Sure",
        "<|end|> Sure <|end|>",
    ],
)
def test_the_answer_is_found_although_the_marks_are_special_tokens(
    tokenizer: PreTrainedTokenizerFast, tokens: str
) -> None:
    ids = tokenizer.convert_tokens_to_ids(tokens.split())
    text = AnswerDecoder(tokenizer).text(ids)
    assert "</s>" not in text
    assert (answer_in(text) or "").strip() == "Sure"


def test_an_unfinished_thought_of_special_tokens_is_no_answer(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = tokenizer.convert_tokens_to_ids(["[THINK]", "no", "Sure"])
    assert answer_in(AnswerDecoder(tokenizer).text(ids)) is None


MICRO = read_tokenizer(MicroWorld().model_path("chat"))


@given(st.lists(st.integers(0, len(MICRO) - 1)))
def test_answers_without_marks_are_decoded_as_before(ids: list[int]) -> None:
    assert AnswerDecoder(MICRO).text(ids) == MICRO.decode(ids, skip_special_tokens=True)
    assert AnswerDecoder(MICRO).texts([tuple(ids)]) == MICRO.batch_decode([ids], skip_special_tokens=True)


def test_generated_data_hold_answers_without_thoughts(checkpoints: Path) -> None:
    chat = ChatFormat(checkpoints / "chat")
    ids = chat.encode("w1 w2")
    assert chat.decode(ids) == chat.tokenizer.decode(ids, skip_special_tokens=True).strip()
