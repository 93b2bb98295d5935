"""Chat templates: fixed variables, and templates that are refused before anything is trained."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from jinja2 import TemplateError

from benchmark.errors import UsageError
from benchmark.keys import content_key
from benchmark.models.chat import ChatFormat
from benchmark.models.templates import turn_end, variables_of

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
        ("{# lipsum() #}random lipsum ", "random lipsum Hi"),
    ],
)
def test_clock_and_thinking_are_fixed(checkpoints: Path, template: str, text: str) -> None:
    assert chat_of(checkpoints, template + CONTENT).render(USER) == text


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
    assert end("{{ messages[0]['content'] }}") is None
    refuses = "{% if messages[1] is defined %}{{ raise_exception('one turn') }}{% endif %}"
    assert end(refuses + turn + " </s>{% endfor %}") is None
