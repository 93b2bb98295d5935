"""Speed beside the peers, measured only when this folder is named.

    pytest tests/benchmarks --benchmark-group-by=group --benchmark-columns=min,median,rounds

A ratio is meaningful only inside one run on an otherwise idle machine.
"""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import Tensor

from benchmark.interop.byzfl import import_aggregators
from benchmark.updates import AdapterLayout, RoundContext, Updates

PARTICIPANTS = 10
DIMENSION = 4_194_304
MALICIOUS = 3


@pytest.fixture(scope="session")
def byzfl() -> ModuleType:
    return import_aggregators()


@pytest.fixture(scope="session")
def matrix() -> Tensor:
    return torch.randn(PARTICIPANTS, DIMENSION, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def one_large_round(matrix: Tensor) -> tuple[Updates, RoundContext]:
    updates = Updates(
        matrix=matrix,
        client_ids=tuple(f"client_{index:02d}" for index in range(PARTICIPANTS)),
        sample_counts=torch.ones(PARTICIPANTS, dtype=torch.float64),
        layout=AdapterLayout(names=("layer.lora_A",), shapes=((1, DIMENSION),)),
    )
    context = RoundContext(
        index=0,
        rounds=1,
        declared_malicious=MALICIOUS,
        broadcast=torch.zeros(DIMENSION),
        generator=torch.Generator().manual_seed(0),
    )
    return updates, context
