"""One-shot patch: ten steps on the first refusal that the server owns."""

from __future__ import annotations

import torch

from benchmark.submission.practice import practice_server
from defenses.base import defenses

from .server import REFUSAL, FakeServer


def test_one_refusal_is_trained_for_ten_steps_at_the_suite_s_rate() -> None:
    server = FakeServer(500)
    adapter = defenses.get("one_shot_patch").create().finalize(torch.tensor([1.0, 2.0, 3.0]), server)
    assert adapter.tolist() == [2.0, 3.0, 4.0]
    assert [(row.instruction, row.response) for row in server.tuned] == [("harm 0", REFUSAL)]
    assert server.options == {"steps": 10, "rate": 1.0}


def test_the_row_counts_one_pair_and_ten_steps_and_the_refusal_becomes_likelier() -> None:
    server = practice_server()
    start = server.start()
    patched = defenses.get("one_shot_patch").create().finalize(start, server)
    assert (server.usage.owned_aligned, server.usage.owned_normal, server.usage.finetune_steps) == (1, 0, 10)
    row = server.owned_aligned(1)
    assert server.gradient(patched, row)[1] < server.gradient(start, row)[1]
