"""Boosted data poisoning: what malicious clients send is scaled by a positive, finite factor."""

from __future__ import annotations

import pytest
import torch

from attacks.base import AttackerView, attacks
from benchmark.errors import UsageError
from benchmark.updates import AdapterLayout, Updates


def updates(*rows: list[float]) -> Updates:
    layout = AdapterLayout(("layer.lora_A",), ((1, len(rows[0])),))
    ids = tuple(f"c{i}" for i in range(len(rows)))
    return Updates(torch.tensor(rows), ids, torch.ones(len(rows), dtype=torch.float64), layout)


def test_boosting_scales_what_is_sent() -> None:
    own = updates([1.0, -2.0], [0.5, 0.0])
    sent = attacks.get("boosted_data").create({"boost": 4.0}).craft(own, AttackerView(0, 10))
    assert sent.matrix.tolist() == [[4.0, -8.0], [2.0, 0.0]]
    assert own.matrix.tolist() == [[1.0, -2.0], [0.5, 0.0]]
    assert (sent.client_ids, sent.layout) == (own.client_ids, own.layout)


@pytest.mark.parametrize("boost", [0.0, -1.0, float("inf"), float("nan")])
def test_a_boost_is_positive_and_finite(boost: float) -> None:
    with pytest.raises(UsageError, match="it is a positive, finite factor"):
        attacks.get("boosted_data").create({"boost": boost})
