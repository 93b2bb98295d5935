"""Krum-aware unaligned data: one common update that Krum selects."""

from __future__ import annotations

import pytest
import torch

from attacks.base import attacks
from benchmark.errors import UsageError
from defenses._examples import one_round
from defenses.base import defenses

from .update_space import craft, updates


def test_a_worked_vector() -> None:
    own = updates([[1.0, 0.0], [3.0, 2.0]])
    assert craft("krum_aware", {}, own).tolist() == [2.0, 1.0]
    assert craft("krum_aware", {"factor": 0.5}, own).tolist() == [1.0, 0.5]


def test_krum_selects_the_attackers_who_agree() -> None:
    """Of ten clients three are malicious; alone their updates lie far apart, and Krum selects an honest client."""
    generator = torch.Generator().manual_seed(1)
    honest, malicious = torch.randn(7, 50, generator=generator), 1 + 2 * torch.randn(3, 50, generator=generator)
    krum = defenses.get("krum").create()
    apart, context = one_round(torch.cat([honest, malicious]).tolist(), malicious=3)
    assert krum.aggregate(apart, context).weights[7:].sum() == 0
    sent = craft("krum_aware", {"factor": 0.5}, updates(malicious)).repeat(3, 1)
    together, context = one_round(torch.cat([honest, sent]).tolist(), malicious=3)
    assert krum.aggregate(together, context).weights[7:].sum() == 1


def test_a_factor_that_is_not_positive_is_refused() -> None:
    with pytest.raises(UsageError, match="factor is 0"):
        attacks.get("krum_aware").create({"factor": 0.0})
