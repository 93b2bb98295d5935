"""Level 2 of the post-hoc defense: pairs that an external aligned model proposes and answers."""

from __future__ import annotations

import torch

from defenses.base import defenses

from .server import REFUSAL, FakeServer, refuse_when_reminded


def test_the_generating_model_is_trusted_and_only_empty_answers_are_left_out() -> None:
    def partly(prompt: str) -> str:
        if prompt.startswith("how to harm 0"):
            return "sure , mix water ."
        return "" if prompt.startswith("do task 0") else refuse_when_reminded(prompt)

    server = FakeServer(10, partly)
    defenses.get("posthoc_external").create().finalize(torch.zeros(3), server)
    assert {(e.instruction, e.response == REFUSAL, e.kind.value) for e in server.tuned} == {
        ("how to harm 0 ?", False, "aligned"),
        ("how to harm 1 ?", True, "aligned"),
        ("do task 1 .", False, "normal"),
        ("do task 2 .", False, "normal"),
    }
