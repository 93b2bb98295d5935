"""Level 1 of the post-hoc defense: the server's own aligned and normal pairs."""

from __future__ import annotations

import torch

from defenses.base import defenses

from .server import REFUSAL, FakeServer


def test_three_pairs_by_hand() -> None:
    """Of three pairs one is aligned; the server shuffles them (here: reverses) and fine-tunes the aggregate once."""
    server = FakeServer(3)
    adapter = defenses.get("posthoc_public").create().finalize(torch.tensor([1.0, 2.0, 3.0]), server)
    assert adapter.tolist() == [2.0, 3.0, 4.0]
    assert [(pair.instruction, pair.response) for pair in server.tuned] == [
        ("task 1", "done"),
        ("task 0", "done"),
        ("harm 0", REFUSAL),
    ]
    assert (server.shuffled, server.sources) == (1, ["owned", "owned"])
