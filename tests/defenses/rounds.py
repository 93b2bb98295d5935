"""Steps that the tests of many rules share: shapes at and below a condition, and random rounds with outliers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from benchmark.errors import NotApplicableError
from defenses._examples import one_round
from defenses.base import defenses

LARGEST = torch.finfo(torch.float32).max


def refusal(rule: str, participants: int, malicious: int) -> str:
    """Return the message with which ``rule`` refuses a shape; the message names the rule and n."""
    with pytest.raises(NotApplicableError) as error:
        defenses.get(rule).create().check_shape(participants, malicious)
    message = str(error.value)
    assert rule in message
    assert f"n = {participants}" in message
    return message


def accepts(rule: str, participants: int, malicious: int) -> bool:
    """Return whether ``rule`` takes a shape and aggregates a random round of that shape to finite numbers."""
    defenses.get(rule).create().check_shape(participants, malicious)
    matrix = torch.randn(participants, 4, generator=torch.Generator().manual_seed(0))
    result = defenses.get(rule).create().aggregate(*one_round(matrix, malicious=malicious))
    return bool(torch.isfinite(result.update).all())


def identity(rule: str, participants: int, malicious: int) -> str | None:
    """Return the id of the rule that ``rule`` coincides with in this shape, or ``None``."""
    return defenses.get(rule).create().degenerate_as(participants, malicious)


def rounds_with_outliers(participants: int) -> Iterator[tuple[int, Tensor]]:
    """Yield (f, rows ``[n, 200]``) for every f up to half of ``participants``; the first f rows are shifted."""
    for malicious in range(participants // 2 + 1):
        rows = torch.randn(participants, 200, generator=torch.Generator().manual_seed(17 * participants + malicious))
        rows[:malicious] += 0.7
        rows[0, :20] *= 30
        yield malicious, rows
