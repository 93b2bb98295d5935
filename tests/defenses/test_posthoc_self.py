"""Level 3 of the post-hoc defense: pairs that the attacked global model proposes and answers."""

from __future__ import annotations

from collections import Counter

import torch

from defenses.base import defenses

from .server import FakeServer


def test_few_pairs_are_repeated_in_turn() -> None:
    server = FakeServer(12)
    defenses.get("posthoc_self").create().finalize(torch.tensor([1.0, 2.0, 3.0]), server)
    counts = Counter(example.instruction for example in server.tuned)
    assert sorted(counts) == ["do task 0 .", "do task 1 .", "do task 2 .", "how to harm 0 ?", "how to harm 1 ?"]
    assert sorted(counts.values()) == [2, 2, 2, 3, 3]
