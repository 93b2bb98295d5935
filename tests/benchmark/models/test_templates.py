"""Chat templates: fixed variables, and templates that are refused before anything is trained."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from jinja2 import TemplateError

from benchmark.errors import UsageError
from benchmark.generation.checkpoints import read_checkpoint
from benchmark.keys import content_key
from benchmark.models.chat import ChatFormat
from benchmark.models.templates import thinking_switches, turn_end, variables_of
from benchmark.models.thoughts import open_thought

CONTENT = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
USER = [{"role": "user", "content": "Hi"}]


def chat_of(checkpoints: Path, template: str) -> ChatFormat:
    return ChatFormat(checkpoints / "chat", template=template, template_name="mine.jinja")


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ strftime_now('%Y-%m-%d') }} {{ date_string }} ", "2024-07-26 26 Jul 2024 Hi"),
        ("{{ strftime_now('%H:%M:%S') }} ", "00:00:00 Hi"),
        ("{% macro today() %}{{ strftime_now('%d') }}{% endmacro %}{{ today() }} ", "26 Hi"),
        ("{% if enable_thinking is defined and enable_thinking is false %}still {% endif %}", "still Hi"),
        ("{% if enable_thinking is not defined or enable_thinking %}<think>{% endif %}", "Hi"),
        ("{% if thinking %}<think>{% endif %}", "Hi"),
        ("{% if enable_reasoning is not defined or enable_reasoning %}<think>{% endif %}", "Hi"),
        ("{% if reasoning is undefined %}{% set reasoning = true %}{% endif %}{% if reasoning %}on{% endif %}", "Hi"),
        ("{# lipsum() #}random lipsum ", "random lipsum Hi"),
    ],
)
def test_clock_and_thinking_are_fixed(checkpoints: Path, template: str, text: str) -> None:
    assert chat_of(checkpoints, template + CONTENT).render(USER) == text


ASKS = CONTENT + "{% if add_generation_prompt %} assistant: "


@pytest.mark.parametrize(
    ("opening", "closing"),
    [
        ("<think>", "\n\n</think>\n\n"),
        ("<think>\n", "\n</think>\n\n"),
        ("<think>\n\n</think>\n\n", ""),
        ("[THINK]", "[/THINK]"),
        ("<|START_THINKING|>", "<|END_THINKING|>"),
        ("\u25c1think\u25b7", "\u25c1/think\u25b7"),
        ("<|inner_prefix|>", "<|inner_suffix|>"),
        ("<|channel>thought\n", "<channel|>"),
        ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    ],
)
def test_a_thought_that_a_template_opens_is_closed(checkpoints: Path, opening: str, closing: str) -> None:
    chat = chat_of(checkpoints, f"{ASKS}{opening}{{% endif %}}")
    assert chat.render(USER) == f"Hi assistant: {opening}{closing}"
    assert chat.render([*USER, {"role": "assistant", "content": "Yo"}], answer_follows=False) == "HiYo"
    assert open_thought(chat.render(USER)) is None
    # A user who writes the mark opens no thought.
    assert chat.render([{"role": "user", "content": "<thinking>"}]).startswith("<thinking> assistant: ")
    plain = chat_of(checkpoints, CONTENT)
    assert plain.render([{"role": "user", "content": "Hi <think>"}]) == "Hi <think>"
    assert plain.thinking == []
    if closing:
        assert "opens a thought with" in chat.thinking[0]
        source, vocabulary = chat.tokenizer.chat_template, sorted(chat.tokenizer.get_vocab().items())
        assert chat.digest == content_key([source, vocabulary, {"closed thought": opening.strip()}])


def test_a_thought_that_cannot_be_closed_is_refused(checkpoints: Path) -> None:
    for opening in ("<think>Okay, ", "<|thought|>"):
        with pytest.raises(UsageError, match=r"fails \(it opens a thought with .* cannot be closed\); mend it"):
            chat_of(checkpoints, f"{ASKS}{opening}{{% endif %}}")


def test_other_switches_of_thinking_are_named(checkpoints: Path) -> None:
    sets = "{% if reasoning_effort is not defined %}{% set reasoning_effort = 'medium' %}{% endif %}"
    assert thinking_switches(sets + "{{ thinking_mode }}{{ enable_thinking }}{{ clear_thinking }}") == [
        "reasoning_effort",
        "thinking_mode",
    ]
    assert thinking_switches("{% for m in messages %}{% set thought = m.reasoning %}{{ thought }}{% endfor %}") == []
    assert thinking_switches("{% generation %}{{ effort }}{% endgeneration %}{% break %}") == ["effort"]
    (remark,) = chat_of(checkpoints, CONTENT + sets).thinking
    assert remark.startswith("chat template mine.jinja reads reasoning_effort, which stay at the template's default")


def test_the_digest_holds_the_fixed_variables_of_templates_that_read_them(checkpoints: Path) -> None:
    assert variables_of(CONTENT + "{{ date_string }}") == {}
    assert variables_of("{{ strftime_now('%d') }}") == {"strftime_now": "26 Jul 2024"}
    assert variables_of("{% if enable_thinking %}") == {"enable_thinking": False}
    # The digest of other templates is part of published keys.
    chat = ChatFormat(checkpoints / "chat")
    vocabulary = sorted(chat.tokenizer.get_vocab().items())
    assert chat.digest == content_key([chat.tokenizer.chat_template, vocabulary])
    asks = chat_of(checkpoints, CONTENT + "{{ strftime_now('%d') }}")
    assert asks.digest == content_key([asks.tokenizer.chat_template, vocabulary, {"strftime_now": "26 Jul 2024"}])


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("{% for m in messages %}{{ m['content'] }}{% endfor", r"mine\.jinja fails in line 1 \("),
        ("\n\n{% nothing %}", r"fails in line 3 \(Encountered unknown tag 'nothing'"),
        ("{{ raise_exception('no users') }}", r"fails \(no users\)"),
        ("{{ 1 / 0 }}" + CONTENT, r"fails \(ZeroDivisionError"),
        ("{{ messages.nothing.at_all }}", r"fails \("),
        ("{{ messages[7]['content'] }}", r"fails \("),
        ("{% for i in range(10 ** 9) %}{% endfor %}", r"fails \(OverflowError"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", r"fails \(RecursionError"),
        ("", "does not write the whole text of a turn of 'user'"),
        ("{{ bos_token }}", "does not write the whole text"),
        ("{{ messages[0]['content'][:40] }}", "does not write the whole text"),
        ("{{ messages[0]['contnet'] }}", "does not write the whole text"),
        ("{{ messages[0]['content'].split('\\n')[0] }}", "does not write the whole text"),
        ("{{ messages[0]['content'].split('###')[0] }}", "does not write the whole text"),
        ("{{ messages[0]['content'][:3000] }}", "does not write the whole text"),
        ("{{ messages[0]['content'] | truncate(255) }}", "does not write the whole text"),
        ("{{ messages[0]['content'] | striptags }}", "does not write the whole text"),
        ("{{ messages[0]['content'] | e }}", "does not write the whole text"),
        ("{{ messages[0]['content'].encode('ascii', 'ignore').decode() }}", "does not write the whole text"),
        ("{{ messages[0]['content'][1:] }}", "does not write the whole text"),
        ("{{ messages[0]['content'].rstrip('?!.') }}", "does not write the whole text"),
        ("{{ messages[0]['content'].strip('\"') }}", "does not write the whole text"),
        ("{{ messages[0]['content'].lstrip('#') }}", "does not write the whole text"),
        ("{{ messages[0]['content'].removesuffix(')') }}", "does not write the whole text"),
        ("{{ messages[0]['content'] | trim('*') }}", "does not write the whole text"),
        (CONTENT + "{{ ['a', 'b'] | random }}", r"draws text at random \(random\)"),
        (CONTENT + "{{ lipsum() }}", r"draws text at random \(lipsum\)"),
        (CONTENT + "{{ [['a', 'b']] | map('random') | join }}", "draws text at random"),
        (CONTENT + "{% filter random %}ab{% endfilter %}", "draws text at random"),
        (CONTENT + "{% set f = lipsum %}{{ f() }}", "draws text at random"),
        (CONTENT + "{{ strftime_now }}", r"writes an address in memory \(at 0x"),
    ],
)
def test_a_template_with_a_slip_is_refused_before_training(checkpoints: Path, template: str, problem: str) -> None:
    with pytest.raises(UsageError, match=f"{problem}.*; mend it, or name another template"):
        chat_of(checkpoints, template)


def test_blanks_at_the_border_of_a_text_may_go(checkpoints: Path) -> None:
    assert (
        chat_of(checkpoints, "{{ messages[0]['content'] | trim }}").render([{"role": "user", "content": " a "}]) == "a"
    )


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "chat_template.jinja").write_bytes(b"\xff\xfe"),
        lambda folder: (folder / "chat_template.jinja").write_text("{% if %}"),
        lambda folder: settings(folder, chat_template=[1]),
        lambda folder: settings(folder, chat_template=[{"name": "tool", "template": "x"}]),
    ],
)
def test_a_template_of_the_suite_replaces_a_damaged_one(
    checkpoints: Path, tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(checkpoints / "chat", folder)
    damage(folder)
    with pytest.raises(UsageError, match=str(folder)):
        ChatFormat(folder)
    whole, mended = chat_of(checkpoints, CONTENT), ChatFormat(folder, template=CONTENT)
    assert mended.render(USER) == "Hi"
    assert mended.digest == whole.digest
    assert read_checkpoint(folder, CONTENT).end_ids == read_checkpoint(checkpoints / "chat", CONTENT).end_ids


def settings(folder: Path, **changes: object) -> None:
    (folder / "chat_template.jinja").unlink()
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_template_of_the_checkpoint_is_named_by_its_folder(checkpoints: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(checkpoints / "chat", folder)
    (folder / "chat_template.jinja").write_text("{% if %}")
    with pytest.raises(UsageError, match=rf"the chat template in {folder} fails in line 1"):
        ChatFormat(folder)
    (folder / "chat_template.jinja").unlink()
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": [1]}))
    with pytest.raises(UsageError, match=str(folder)):
        ChatFormat(folder)


def test_of_several_templates_the_default_is_used(checkpoints: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(checkpoints / "chat", folder)
    (folder / "chat_template.jinja").unlink()
    path = folder / "tokenizer_config.json"
    named = [{"name": "default", "template": CONTENT}, {"name": "tool_use", "template": "tools " + CONTENT}]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": named}))
    assert ChatFormat(folder).render(USER) == "Hi"


def test_a_byte_order_mark_of_the_template_is_in_no_prompt(checkpoints: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(checkpoints / "chat", folder)
    (folder / "chat_template.jinja").write_text(CONTENT, encoding="utf-8-sig")
    assert ChatFormat(folder).render(USER) == "Hi"


def test_an_instruction_on_which_a_template_fails_is_named(checkpoints: Path) -> None:
    chat = chat_of(checkpoints, "{{ 1 // (messages[0]['content'] | length - 2) }}" + CONTENT)
    with pytest.raises(UsageError, match=r"fails on the instruction 'Hi' \(ZeroDivisionError"):
        chat.prompt_ids("Hi")
    with pytest.raises(TemplateError, match="ZeroDivisionError"):
        chat.render(USER)


def test_the_token_behind_an_answer_is_found(checkpoints: Path) -> None:
    def end(template: str) -> int | None:
        chat = chat_of(checkpoints, template)
        return turn_end(chat.tokenizer, chat.control)

    turn = "{% for m in messages %}{{ m['role'] }} {{ m['content'] }}"
    assert end(turn + " </s>{% endfor %}") == 2
    assert end(turn + " w1 </s> <s>\n{% endfor %}") == 2
    assert end(turn + "\n{% endfor %}") is None
    # These templates end a turn only where another one follows.
    assert end(turn + "{% if not loop.last %} </s>\n{% endif %}{% endfor %}") == 2
    assert end("{% for m in messages %}{% if loop.index0 %} </s> {% endif %}{{ m['content'] }}{% endfor %}") == 2
    assert end("{{ messages[0]['content'] }}") is None
    refuses = "{% if messages[1] is defined %}{{ raise_exception('one turn') }}{% endif %}"
    assert end(refuses + turn + " </s>{% endfor %}") is None
