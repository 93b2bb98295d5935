"""Steps of the three post-hoc levels: half aligned, half normal pairs, repeated to the full count, then fine-tuning."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from benchmark.errors import FedSafetyError
from defenses.base import defenses
from tasks.base import DataKind

from .server import REFUSAL, FakeServer

LEVELS = ["posthoc_public", "posthoc_external", "posthoc_self"]


@pytest.mark.parametrize("name", LEVELS)
@pytest.mark.parametrize("examples", [10, 11, 500])
def test_half_of_the_pairs_are_aligned_and_half_normal(name: str, examples: int) -> None:
    server = FakeServer(examples)
    adapter = defenses.get(name).create().finalize(torch.tensor([1.0, 2.0, 3.0]), server)
    assert adapter.tolist() == [2.0, 3.0, 4.0]
    kinds = Counter(example.kind for example in server.tuned)
    assert kinds == {DataKind.ALIGNED: examples // 2, DataKind.NORMAL: examples - examples // 2}
    assert server.shuffled == 1
    assert set(server.sources) == {name.removeprefix("posthoc_").replace("public", "owned")}
    for example in server.tuned:
        assert (example.response == REFUSAL) == (example.kind is DataKind.ALIGNED)
        assert "answer safely" not in example.instruction


@pytest.mark.parametrize("name", ["posthoc_external", "posthoc_self"])
@pytest.mark.parametrize("missing", ["aligned", "normal"])
def test_a_model_that_yields_no_pair_fails_the_cell_and_says_why(name: str, missing: str) -> None:
    server = FakeServer(10, lambda prompt: "" if prompt.endswith("safely .") == (missing == "aligned") else "sure .")
    with pytest.raises(FedSafetyError, match=f"obtained no {missing} pair, so there is nothing to fine-tune on"):
        defenses.get(name).create().finalize(torch.tensor([1.0, 2.0, 3.0]), server)
    assert server.tuned == []
