"""Post-hoc fine-tuning with three percent of refusals."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from defenses.base import defenses
from tasks.base import DataKind

from .server import FakeServer


@pytest.mark.parametrize(("examples", "aligned"), [(1, 1), (10, 1), (64, 2), (500, 15), (1000, 30)])
def test_three_percent_of_as_many_rows_are_aligned(examples: int, aligned: int) -> None:
    server = FakeServer(examples)
    adapter = defenses.get("posthoc_small").create().finalize(torch.tensor([1.0, 2.0, 3.0]), server)
    assert adapter.tolist() == [2.0, 3.0, 4.0]
    kinds = Counter(row.kind for row in server.tuned)
    assert (kinds[DataKind.ALIGNED], kinds[DataKind.NORMAL]) == (aligned, examples - aligned)
    assert (server.shuffled, server.sources, server.options) == (1, ["owned", "owned"], {})
