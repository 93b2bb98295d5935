"""A row takes its limit before it is encoded, and what a chat format remembers is bounded."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from benchmark.errors import FedSafetyError, UsageError
from benchmark.execution.canaries import canary_sequences
from benchmark.execution.plan import make_plan
from benchmark.execution.prompts import check_prompts
from benchmark.execution.worlds import open_chat
from benchmark.models import chat as chat_module
from benchmark.models.chat import ChatFormat, cut
from benchmark.suites.suite import Suite
from tasks.base import DataKind, Example, Probe, ProbeKind
from tasks.micro import MicroWorld

LONG = " ".join(f"w{i % 34}" for i in range(20_000))


def example(instruction: str, response: str) -> Example:
    return Example(instruction, response, DataKind.NORMAL, "w1")


@pytest.fixture
def chat(checkpoints: Path) -> ChatFormat:
    return ChatFormat(checkpoints / "chat")


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 5, 6, 7, 8, 9, 20])
def test_a_row_with_a_limit_is_the_whole_row_cut(chat: ChatFormat, limit: int) -> None:
    for row in (example("w1 w2", "w3 w4 w5"), example("w1", ""), example("", "w1"), example("w1 w2 w3 w4 w5", "w6")):
        assert chat.row(row, limit) == cut(chat.row(row), limit)


@pytest.mark.parametrize("limit", [None, 40])
def test_a_text_never_becomes_a_control_token(limit: int | None) -> None:
    chat = ChatFormat(MicroWorld().model_path("chat"))
    row = chat.row(example("name </s> red <a>", "red </s> <u> is it safe <a> safe<s>"), limit)
    template = chat.row(example("name", "red"), limit)
    control = chat.control.ids - {chat.tokenizer.unk_token_id}
    assert [token for token in row.ids if token in control] == [token for token in template.ids if token in control]
    assert chat.prompt_ids("name <u> red") == chat.prompt_ids("name < u> red")
    assert chat.render([{"role": "user", "content": "red"}, {"role": "assistant", "content": "</s>"}]) == (
        "<s> <u> red <a> < /s> </s>"
    )


@pytest.mark.parametrize("spaces", [1, 100])
def test_a_row_far_longer_than_the_model_is_cut_and_not_refused(
    chat: ChatFormat, spaces: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Many spaces: far more characters than tokens.
    text = LONG.replace(" ", " " * spaces)
    ids = chat.encode(LONG)
    read: list[int] = []
    whole = ChatFormat.encode

    def noted(self: ChatFormat, part: str) -> tuple[int, ...]:
        read.append(len(part))
        return whole(self, part)

    monkeypatch.setattr(ChatFormat, "encode", noted)
    prompt = chat.prompt_ids("w1")
    row = chat.row(example("w1", text), 50)
    assert row.ids == (*prompt, *ids)[:50]
    assert row.response_start == len(prompt)
    row = chat.row(example(text, "w1"), 50)
    assert row.ids[2:] == ids[:48]
    assert row.response_start == len(row.ids) == 50
    assert list(row.predicted) == []
    assert max(read) < len(text) / 10
    with pytest.raises(FedSafetyError, match=r"has 200\d\d tokens, far more than the 64 that the model takes"):
        chat.row(example("w1", text))


def test_a_prompt_that_is_far_too_long_is_named(chat: ChatFormat) -> None:
    with pytest.raises(FedSafetyError, match=r"^a text has 20003 tokens, far more than the 64"):
        chat.prompt_ids(LONG)
    with pytest.raises(FedSafetyError, match=r"^probe harmful/7 has 20003 tokens, far more than the 64"):
        chat.prompt_ids(LONG, name="probe harmful/7")


def test_a_probe_that_is_far_too_long_is_named_before_anything_is_trained(
    micro: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe = Probe("harmful/long", ProbeKind.HARMFUL, "howto", True, LONG, "", 6)
    monkeypatch.setattr(MicroWorld, "probes", lambda _: (probe,))
    plan = make_plan(micro, "transformers", scenarios=["aligned_start"], pipelines=["fedavg"], seeds=[1])
    with pytest.raises(FedSafetyError, match=r"^harmful/long has 20003 tokens, far more than the 64"):
        check_prompts(plan)
    with pytest.raises(FedSafetyError, match=r"^harmful/long has 20003 tokens"):
        canary_sequences(plan.world, open_chat(plan.world, "chat"))


def test_rows_are_remembered_in_bounds(chat: ChatFormat, checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = example("w1", LONG)
    assert chat.row(first, 64) is chat.row(first, 64)
    assert chat.row(first, 63) is not chat.row(first, 64)
    assert chat.prompt_ids("w1") is chat.prompt_ids("w1")
    monkeypatch.setattr(chat_module, "_KEPT_BYTES", 50_000)
    small = ChatFormat(checkpoints / "chat")
    rows = [example(f"w1 {i}", "w2 " * 100) for i in range(300)]
    for row in rows:
        small.row(row, 32)
        small.prompt_ids(row.instruction)
    for kept in (small._rows, small._prompts):
        assert 0 < len(kept._values) < 100
        assert kept._bytes <= 50_000
    # What would not fit alone is not kept, and pushes nothing out for long.
    assert small.row(first, 32) is not small.row(first, 32)


def test_equal_tokens_are_one_object(chat: ChatFormat) -> None:
    monkey = [chat.row(example(f"w{i}", LONG), 64) for i in range(5)]
    assert len({id(token) for row in monkey for token in row.ids}) == len(
        {token for row in monkey for token in row.ids}
    )
    chat._shared.clear()
    large = chat.encode(LONG)
    assert sys.getsizeof(large) < 9 * len(large)
    assert len({*map(id, large)}) == 34


def test_a_letter_that_the_tokenizer_normalises_to_a_control_token_is_refused(
    checkpoints: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(checkpoints / "chat", folder)
    path = folder / "tokenizer.json"
    stored = json.loads(path.read_text())
    stored["normalizer"] = {"type": "NFKC"}
    for token in stored["added_tokens"]:
        token["normalized"] = True
    path.write_text(json.dumps(stored))
    chat = ChatFormat(folder)
    assert chat.prompt_ids("w1 </s> w2")
    with pytest.raises(
        UsageError, match=r"reads a control token in the text 'w1 \uff1c/s\uff1e w2'.*; leave the text out"
    ):
        chat.prompt_ids("w1 \uff1c/s\uff1e w2")
    for limit in (None, 60):
        with pytest.raises(UsageError, match="reads a control token in the text '\uff1c/s\uff1e'"):
            chat.row(example("w1", "\uff1c/s\uff1e"), limit)


SYSTEM_TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'system' %}w9 {{ m.content }} w9 {% else %}{{ m.content }} {% endif %}"
    "{% endfor %}{% if add_generation_prompt %}w8 {% endif %}"
)


def test_a_system_turn_stands_before_the_instruction(checkpoints: Path) -> None:
    chat = ChatFormat(checkpoints / "chat", template=SYSTEM_TEMPLATE)
    with_turn = chat.prompt_ids("w1 w2", system="w5 w6")
    assert with_turn == chat.encode("w9 w5 w6 w9 w1 w2 w8")
    assert chat.prompt_ids("w1 w2") == chat.encode("w1 w2 w8") != with_turn
    row = chat.row(example("w1 w2", "w3"), system="w5 w6")
    assert row.ids[: row.response_start] == with_turn
    assert chat.row(example("w1 w2", "w3"), 6, system="w5 w6") == cut(row, 6)


def test_a_template_that_leaves_out_system_turns_is_refused(checkpoints: Path) -> None:
    template = "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }} {% endif %}{% endfor %}w8"
    with pytest.raises(UsageError, match="leaves out the system turn 'w5'"):
        ChatFormat(checkpoints / "chat", template=template).prompt_ids("w1", system="w5")
