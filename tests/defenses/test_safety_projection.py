"""Safety projection: the bound, the step back, its longest length, and losses that are not finite."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from benchmark.errors import FedSafetyError
from benchmark.submission.practice import one_round
from defenses.base import defenses
from defenses.safety_projection import projected
from tasks.base import DataKind, Example

from .server import FakeServer


class LinearLoss(FakeServer):
    """The loss of refusals is 0.1 + 2 · (second number of the adapter)."""

    at_start = 0.1

    def gradient(self, adapter: Tensor, examples: list[Example], **options: Any) -> tuple[Tensor, float]:
        assert {row.kind for row in examples} == {DataKind.ALIGNED}
        loss = self.at_start + 2 * float(adapter[1])
        if loss > 1e6:
            raise FedSafetyError("not finite")
        return torch.tensor([0.0, 2.0, 0.0]), loss


def update_of(row: list[float], server: LinearLoss) -> list[float]:
    result = defenses.get("safety_projection").create().aggregate(*one_round([row], server=server))
    assert result.weights is not None
    assert result.weights.tolist() == [1.0]
    return result.update.tolist()


def test_a_loss_above_the_bound_comes_back_to_it() -> None:
    """At (3, 1, 0) the loss is 2.1; the bound is 0.2, so the second number falls by 1.9 / 2 = 0.95."""
    assert update_of([3.0, 1.0, 0.0], LinearLoss()) == pytest.approx([3.0, 0.05, 0.0])


def test_a_loss_below_the_bound_keeps_the_mean() -> None:
    assert update_of([3.0, 0.05, 0.0], LinearLoss()) == pytest.approx([3.0, 0.05, 0.0])


def test_the_start_s_own_loss_is_the_bound_where_it_is_higher() -> None:
    """From a start with a loss of 1.5 the whole rise of 2 is taken back, and no more."""
    server = LinearLoss()
    server.at_start = 1.5
    assert update_of([3.0, 1.0, 0.0], server) == pytest.approx([3.0, 0.0, 0.0])


def test_the_loss_of_an_unaligned_start_is_no_bound() -> None:
    """From 1.5 the loss rises to 3.5. The bound is 0.2, and the step of 3.3 / 2 = 1.65 is shorter than the round's."""
    server = LinearLoss()
    server.at_start, server.has_unaligned = 1.5, False
    assert update_of([3.0, 1.0, 0.0], server) == pytest.approx([3.0, 1 - 1.65, 0.0])


@pytest.mark.parametrize("row", [[3.0, -1.0, 0.0], [3.0, 0.0, 0.0]])
def test_a_round_that_teaches_refusals_is_that_of_fedavg(row: list[float]) -> None:
    server = LinearLoss()
    server.at_start = 1.5
    assert update_of(row, server) == row


def test_the_bound_is_measured_once() -> None:
    server, rule = LinearLoss(), defenses.get("safety_projection").create()
    first = rule.aggregate(*one_round([[3.0, 1.0, 0.0]], server=server))
    server.at_start = 0.3
    second = rule.aggregate(*one_round([[3.0, 1.0, 0.0]], server=server))
    assert first.update.tolist() == pytest.approx([3.0, 0.05, 0.0])
    assert second.update.tolist() == pytest.approx([3.0, -0.05, 0.0])


def test_the_step_is_at_most_as_long_as_the_round_s_own() -> None:
    mean = torch.tensor([0.3, 0.4])
    moved = projected(mean, torch.tensor([0.0, 0.01]), 2.0, 0.2)
    assert float((moved - mean).norm()) == pytest.approx(0.5)


def test_a_model_without_a_finite_loss_keeps_the_mean() -> None:
    assert update_of([0.0, 1e15, 0.0], LinearLoss()) == pytest.approx([0.0, 1e15, 0.0])
