"""Each aggregation rule beside its peers at 10 updates of 4,194,304 float32 numbers (f = 3)."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmark.updates import RoundContext, Updates
from defenses.base import defenses

MALICIOUS = 3
ROUNDS = {"rounds": 5, "warmup_rounds": 1}
RULES = (
    "fedavg",
    "median",
    "trimmed_mean",
    "krum",
    "multi_krum",
    "dnc",
    "foolsgold",
    "residual",
    "norm_clipping",
    "norm_clipping_noise",
    "geometric_median",
    "centered_clipping",
    "nearest_neighbour_mixing",
    "flame",
    "freqfed",
    "lasa",
)
BYZFL = {
    "fedavg": ("Average", {}),
    "median": ("Median", {}),
    "trimmed_mean": ("TrMean", {"f": MALICIOUS}),
    "krum": ("Krum", {"f": MALICIOUS}),
    "multi_krum": ("MultiKrum", {"f": MALICIOUS}),
}


@pytest.mark.parametrize("rule", RULES)
def test_ours(benchmark: Any, rule: str, one_large_round: tuple[Updates, RoundContext]) -> None:
    benchmark.group = rule
    defense = defenses.get(rule).create()
    rounds = ROUNDS if rule != "residual" else {"rounds": 1}
    result = benchmark.pedantic(defense.aggregate, args=one_large_round, **rounds)
    assert bool(torch.isfinite(result.update).all())


@pytest.mark.parametrize("rule", BYZFL)
def test_byzfl(benchmark: Any, rule: str, matrix: Tensor, byzfl: ModuleType) -> None:
    benchmark.group = rule
    name, parameters = BYZFL[rule]
    result = benchmark.pedantic(getattr(byzfl, name)(**parameters), args=(matrix,), **ROUNDS)
    assert result.shape == matrix.shape[1:]


def test_torch_median(benchmark: Any, matrix: Tensor) -> None:
    benchmark.group = "median"
    result = benchmark.pedantic(lambda: matrix.median(dim=0).values, **ROUNDS)
    assert result.shape == matrix.shape[1:]


def test_numpy_median(benchmark: Any, matrix: Tensor) -> None:
    benchmark.group = "median"
    result = benchmark.pedantic(np.median, args=(matrix.numpy(), 0), **ROUNDS)
    assert result.shape == matrix.shape[1:]
