"""The safety prompt: every request has it, and a template without a system turn gets an error."""

from __future__ import annotations

import pytest

from benchmark.errors import UsageError
from benchmark.execution.worlds import open_chat
from defenses.base import Prompt, defenses
from defenses.ptst import PTST
from tasks.base import task_worlds


def test_the_turn_is_added_and_nothing_else_changes() -> None:
    rule = defenses.get("ptst").create()
    assert rule.serve(Prompt("name a fruit .")) == Prompt("name a fruit .", None, PTST.SYSTEM)
    assert rule.serve(Prompt("x", answer="no")) == Prompt("x", "no", PTST.SYSTEM)


def test_a_template_without_a_place_for_it_is_named() -> None:
    chat = open_chat(task_worlds.get("micro").create(), "chat")
    with pytest.raises(UsageError, match="system turn"):
        chat.prompt_ids("name a fruit .", system=PTST.SYSTEM)
