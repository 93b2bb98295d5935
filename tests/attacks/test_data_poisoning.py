"""Steps of all data attacks: exact shares of normal rows, and updates that are sent as they were trained."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from attacks.base import AttackerView, attacks
from benchmark.errors import UsageError
from benchmark.updates import AdapterLayout, Updates
from tasks.base import DataKind

from .resources import NORMAL, POOL, rng


@pytest.mark.parametrize("name", ["unaligned_data", "generated_data", "boosted_data"])
@pytest.mark.parametrize(("share", "normal"), [(0.0, 0), (0.07, 7), (0.5, 50), (1.0, 100)])
def test_the_normal_share_is_exact(name: str, share: float, normal: int) -> None:
    rows = attacks.get(name).create({"normal_share": share}).poison(NORMAL, POOL, rng())
    assert len(rows) == len(NORMAL)
    kept = [row for row in rows if row.kind is DataKind.NORMAL]
    assert len(kept) == len(set(kept)) == normal
    assert set(rows) <= {*NORMAL, *POOL}
    if 0 < normal < 100:
        assert rows[:normal] != kept, "normal rows must not stand first"


@pytest.mark.parametrize("name", ["unaligned_data", "generated_data", "boosted_data"])
@pytest.mark.parametrize("key", ["normal_share", "reminder_share"])
@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), "half"])
def test_a_share_is_between_0_and_1(name: str, key: str, value: Any) -> None:
    with pytest.raises(UsageError, match=f"'{name}' refuses the parameters .*{value}"):
        attacks.get(name).create({key: value})


@pytest.mark.parametrize("name", ["unaligned_data", "generated_data"])
def test_data_attacks_send_what_training_made(name: str) -> None:
    layout = AdapterLayout(("layer.lora_A",), ((1, 2),))
    own = Updates(torch.tensor([[1.0, -2.0]]), ("c0",), torch.ones(1, dtype=torch.float64), layout)
    assert attacks.get(name).create().craft(own, AttackerView(0, 10)) is own
