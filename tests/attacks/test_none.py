"""The attack that does nothing."""

from __future__ import annotations

import torch

from attacks.base import AttackerView, attacks
from benchmark.updates import AdapterLayout, Updates

from .resources import NORMAL, Resources, rng


def test_rows_and_updates_are_left_alone() -> None:
    attack = attacks.get("none").create()
    assert attack.pool(Resources(), rng()) == []
    assert attack.poison(NORMAL, [], rng()) == NORMAL
    layout = AdapterLayout(("layer.lora_A",), ((1, 2),))
    own = Updates(torch.tensor([[1.0, -2.0]]), ("c0",), torch.ones(1, dtype=torch.float64), layout)
    assert attack.craft(own, AttackerView(0, 10)) is own
