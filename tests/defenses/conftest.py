"""Rounds from lists, and the published vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from benchmark.updates import Aggregate
from defenses._examples import one_round
from defenses.base import defenses

Rows = Sequence[Sequence[float]]


@pytest.fixture
def first_set() -> Rows:
    """Seven clients of which the last is far off; f = 1."""
    return [(1, 0, 2), (2, 1, 1), (0, 1, 3), (1, 2, 2), (2, 0, 3), (1, 1, 1), (50, -40, 30)]


@pytest.fixture
def second_set() -> Rows:
    """Nine clients of which the last two collude; f = 2."""
    return [
        (0, 0.7833, 0.9738, 0.4274),
        (1.0917, 0.6155, -0.2508, -0.8516),
        (-0.0555, -0.7162, -0.6835, 0.0178),
        (-0.6258, 0.0206, 0.8784, 1.2985),
        (0.8941, 1.3882, 1.1344, 0.3248),
        (1.2985, 0.5248, -0.2677, -0.4792),
        (-0.0999, -0.3946, 0.0634, 0.9275),
        (4, -3.5, 3, -2.5),
        (3.8, -3.6, 3.1, -2.4),
    ]


@pytest.fixture
def aggregate() -> Callable[..., Aggregate]:
    """Run a fresh instance of the rule called ``name`` on one round."""

    def run(name: str, rows: Rows, malicious: int = 0, **options: Any) -> Aggregate:
        return defenses.get(name).create().aggregate(*one_round(rows, malicious=malicious, **options))

    return run
