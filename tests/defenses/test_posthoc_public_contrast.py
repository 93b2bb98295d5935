"""The ablation of the post-hoc defense in which a tenth of the pairs are benign look-alikes."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from benchmark.errors import FedSafetyError
from defenses.base import defenses

from .server import FakeServer


def test_look_alikes_take_the_place_of_normal_pairs() -> None:
    server = FakeServer(500)
    adapter = defenses.get("posthoc_public_contrast").create().finalize(torch.tensor([1.0, 2.0, 3.0]), server)
    assert adapter.tolist() == [2.0, 3.0, 4.0]
    counts = Counter(example.instruction.rpartition(" ")[0] for example in server.tuned)
    assert counts == {"harm": 250, "task": 200, "harm toy": 50}
    assert (server.shuffled, set(server.sources)) == (1, {"owned"})


def test_the_metadata_name_the_method_that_it_varies() -> None:
    assert defenses.get("posthoc_public_contrast").info.variant_of == "posthoc_public"


def test_the_server_must_own_look_alikes() -> None:
    with pytest.raises(FedSafetyError, match="object owns no look-alikes of harmful requests"):
        defenses.get("posthoc_public_contrast").create().finalize(torch.zeros(3), object())
