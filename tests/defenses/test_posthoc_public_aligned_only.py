"""The ablation of the post-hoc defense that fine-tunes on aligned pairs alone."""

from __future__ import annotations

from collections import Counter

import torch

from defenses.base import defenses

from .server import FakeServer


def test_all_pairs_are_aligned_and_as_many_as_before() -> None:
    server = FakeServer(500)
    adapter = defenses.get("posthoc_public_aligned_only").create().finalize(torch.tensor([1.0, 2.0, 3.0]), server)
    assert adapter.tolist() == [2.0, 3.0, 4.0]
    assert Counter(example.instruction.rpartition(" ")[0] for example in server.tuned) == {"harm": 500}
    assert (server.shuffled, set(server.sources)) == (1, {"owned"})


def test_the_metadata_name_the_method_that_it_varies() -> None:
    assert defenses.get("posthoc_public_aligned_only").info.variant_of == "posthoc_public"
