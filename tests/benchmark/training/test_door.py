"""The server's door: finite updates pass, attackers' broken ones are refused, an honest broken one stops the run."""

from __future__ import annotations

import pytest
import torch

from benchmark.errors import FedSafetyError
from benchmark.training.door import admitted
from benchmark.updates import AdapterLayout, Updates


def sent(*values: float) -> Updates:
    matrix = torch.tensor([[value, 1.0] for value in values])
    ids = tuple(f"c{i}" for i in range(len(values)))
    return Updates(matrix, ids, torch.ones(len(values), dtype=torch.float64), AdapterLayout(("a",), ((2,),)))


def test_finite_updates_pass_as_they_are() -> None:
    updates = sent(1.0, 2.0)
    assert admitted(updates, frozenset()) == (updates, ())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])  # the square of 1e30 overflows in float32
def test_what_has_no_finite_norm_is_refused(value: float) -> None:
    received, refused = admitted(sent(1.0, value, 3.0), frozenset({"c1"}))
    assert refused == ("c1",)
    assert received.client_ids == ("c0", "c2")
    assert received.matrix.tolist() == [[1.0, 1.0], [3.0, 1.0]]
    with pytest.raises(FedSafetyError, match=r"honest client c1 is not finite: training diverged; lower"):
        admitted(sent(1.0, value, 3.0), frozenset({"c0"}))
