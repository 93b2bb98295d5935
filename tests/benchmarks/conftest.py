"""Speed beside the peers, measured only when this folder is named.

    pytest tests/benchmarks --benchmark-group-by=group --benchmark-columns=min,median,rounds

A ratio is meaningful only inside one run on an otherwise idle machine.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from benchmark.updates import AdapterLayout, RoundContext, Updates

PARTICIPANTS = 10
DIMENSION = 4_194_304
MALICIOUS = 3


def import_byzfl_aggregators() -> ModuleType:
    """Return ByzFL's aggregators without the rest of ByzFL.

    The root of the ``byzfl`` package imports its image training and plotting code, and with it torchvision and seaborn,
    which the aggregators do not use and which are not installed here. An empty module stands in for the root.
    """
    found = importlib.util.find_spec("byzfl")
    assert found is not None, "pip install --no-deps byzfl==0.0.11"
    root = ModuleType("byzfl")
    root.__path__ = list(found.submodule_search_locations or [])
    with patch.dict(sys.modules, {"byzfl": root}):
        return importlib.import_module("byzfl.aggregators.aggregators")


@pytest.fixture(scope="session")
def byzfl() -> ModuleType:
    return import_byzfl_aggregators()


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
