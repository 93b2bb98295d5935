"""Rounds for tests of attacks in update space, and ByzFL's attacks as a reference."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from attacks.base import AttackerView, attacks
from benchmark.updates import AdapterLayout, Updates

SIX_ROWS = ((1.0, 0.0, 2.0), (2.0, 1.0, 1.0), (0.0, 1.0, 3.0), (1.0, 2.0, 2.0), (2.0, 0.0, 3.0), (1.0, 1.0, 1.0))
"""Six honest updates whose attack vectors are published test values."""


def updates(rows: Sequence[Sequence[float]] | Tensor) -> Updates:
    matrix = torch.as_tensor(rows, dtype=torch.float32)
    layout = AdapterLayout(("layer.lora_A",), ((1, matrix.shape[1]),))
    ids = tuple(f"c{i}" for i in range(len(matrix)))
    return Updates(matrix, ids, torch.ones(len(matrix), dtype=torch.float64), layout)


def random_updates(malicious: int, dimension: int, seed: int = 0) -> Updates:
    return updates(torch.randn(malicious, dimension, generator=torch.Generator().manual_seed(seed)))


def craft(name: str, params: dict[str, Any], own: Updates, participants: int = 10) -> Tensor:
    """Return the vector that all malicious clients send, after a check that nothing else differs or changes."""
    before = own.matrix.clone()
    sent = attacks.get(name).create(params).craft(own, AttackerView(0, participants))
    assert torch.equal(own.matrix, before)
    assert (sent.client_ids, sent.layout, sent.matrix.shape) == (own.client_ids, own.layout, own.matrix.shape)
    assert sent.matrix.dtype == torch.float32
    assert all(torch.equal(row, sent.matrix[0]) for row in sent.matrix)
    return sent.matrix[0]


def byzfl_attacks() -> ModuleType:
    """Return ByzFL's module of attacks; the root of the package imports torchvision, so a stand-in takes its place."""
    whole = sys.modules.get("byzfl")
    root = whole or ModuleType("byzfl")
    spec = importlib.util.find_spec("byzfl")
    assert spec is not None, "byzfl is a development requirement"
    root.__path__ = list(spec.submodule_search_locations or [])
    sys.modules["byzfl"] = root
    try:
        return importlib.import_module("byzfl.attacks.attacks")
    finally:
        if whole is None:
            del sys.modules["byzfl"]
