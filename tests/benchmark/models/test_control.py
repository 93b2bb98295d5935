"""Texts that spell control tokens stay texts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from transformers import AddedToken

from benchmark.models.control import ControlTokens, remark


def tokenizer(*special: str, plain: tuple[str, ...] = ()) -> Any:
    tokens = [AddedToken(text, special=True) for text in special] + [AddedToken(text, special=False) for text in plain]
    return SimpleNamespace(added_tokens_decoder=dict(enumerate(tokens)))


def test_a_spelling_is_taken_apart_and_counted() -> None:
    control = ControlTokens(tokenizer("<|im_end|>", "</s>"), "")
    assert control.taken_apart("red </s> blue<|im_end|>") == "red < /s> blue< |im_end|>"
    assert control.count("red </s>", "blue</s><|im_end|>") == 3
    for text in ("", "a < b", "<|im_start|>", "< /s>", "</S>"):
        assert control.taken_apart(text) == text
        assert control.count(text) == 0


@pytest.mark.parametrize("text", ["<<s>>", "<</s>s>", "</s</s>>", "</s></s>", "<s></s>"])
def test_no_spelling_remains_in_what_is_nested(text: str) -> None:
    control = ControlTokens(tokenizer("<s>", "</s>"), "")
    assert control.count(text) > 0
    assert control.count(control.taken_apart(text)) == 0


def test_a_spelling_that_ends_in_another_one_is_read_again() -> None:
    control = ControlTokens(tokenizer("<<a>", "<a>"), "")
    assert control.taken_apart("<<a>") == "< < a>"


def test_a_spelling_with_a_blank_ends() -> None:
    assert ControlTokens(tokenizer("< "), "").taken_apart("< a").endswith(" a")


def test_control_tokens_are_counted_without_that_of_unknown_words() -> None:
    several = tokenizer("<s>", "<unk>")
    several.unk_token_id = 1
    assert ControlTokens(several, "").among([0, 1, 2, 0]) == 2


def test_the_longest_spelling_is_taken_apart_once() -> None:
    control = ControlTokens(tokenizer("<a", "<a>"), "")
    assert control.taken_apart("<a>") == "< a>"
    assert control.count("<a>") == 1


def test_a_spelling_of_one_character_becomes_a_blank() -> None:
    assert ControlTokens(tokenizer("¶"), "").taken_apart("a¶b") == "a b"


def test_a_first_character_with_a_meaning_in_patterns_is_a_character() -> None:
    control = ControlTokens(tokenizer("[INST]", "]x[", "^y^", "-z-", "\\w\\"), "")
    for text in ("[INST]", "]x[", "^y^", "-z-", "\\w\\"):
        assert control.taken_apart(text) == f"{text[0]} {text[1:]}"
    assert control.taken_apart("a-b ^ [c]") == "a-b ^ [c]"


def test_added_tokens_that_the_template_writes_are_control_tokens() -> None:
    # Blanks and words are added tokens of some tokenizers, and occur in every template.
    plain = ("<think>", "<b>", "  ", "user", "[x]")
    control = ControlTokens(tokenizer(plain=plain), "{% if  user %}<think>{{ m['user'] }}[x]")
    assert control.ids == {0, 4}
    assert control.taken_apart("<think>  user <b>") == "< think>  user <b>"


def test_added_tokens_with_the_shape_of_control_tokens_are_control_tokens() -> None:
    marks = ("<|fim_prefix|>", "<\uff5cUser\uff5c>", "<turn|>", "[|user|]", "\u25c1think\u25b7", "[TOOL_CALLS]")
    marks = (*marks, "<tool_call>", "</longcat_think>", "<seed:think>", "<think>", "[/THINK]")
    texts = ("<b>", "</table>", "<h1>", "a", "[x]", "  ", "...", "<>", "|", "(c)", "->", "[1]", "C++")
    control = ControlTokens(tokenizer(plain=(*marks, *texts)), "")
    assert control.ids == set(range(len(marks)))
    assert control.shaped == tuple(sorted(marks))
    assert ControlTokens(tokenizer("<|im_end|>", plain=("<think>",)), "<think>").shaped == ()
    assert control.taken_apart("<b>use <tool_call> here</b>") == "<b>use < tool_call> here</b>"


def test_an_added_token_without_a_row_is_a_control_token() -> None:
    # Gemma 3's tokenizer has a token for images that its text model lacks.
    control = ControlTokens(tokenizer(plain=("one", "two")), "", rows=1)
    assert control.taken_apart("one two") == "one t wo"


def test_a_tokenizer_without_control_tokens_changes_nothing() -> None:
    control = ControlTokens(tokenizer(), "")
    assert control.taken_apart("</s>") == "</s>"
    assert control.count("</s>") == 0


def test_a_remark_gives_the_number() -> None:
    assert remark(0, "prompts") == ""
    assert remark(1, "prompts").startswith("prompts: 1 spelling of a control token taken apart")
    assert remark(2, "prompts").startswith("prompts: 2 spellings of control tokens taken apart")
