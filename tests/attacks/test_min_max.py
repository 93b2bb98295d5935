"""Min-Max: published factors, the definition's bound, the authors' search, and degenerate rounds."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from attacks._update_space import DIRECTIONS, direction_of, mean_of, products_of
from attacks.base import attacks
from attacks.min_max import largest_factor
from benchmark.errors import UsageError
from benchmark.updates import Updates

from .update_space import SIX_ROWS, craft, random_updates, updates


def factor(own: Updates, name: str) -> float:
    mean = mean_of(own)
    return largest_factor(products_of(own, mean, direction_of(name, own, mean)))


def searched(own: Tensor, direction: Tensor) -> float:
    """Return gamma as the authors find it: by steps of 10, 5, 2.5, …, up where the bound holds and down elsewhere."""
    mean = own.mean(dim=0)
    bound = torch.cdist(own, own).max()
    gamma, step, best = 10.0, 10.0, 0.0
    while abs(best - gamma) > 1e-5:
        holds = bool((own - mean - gamma * direction).norm(dim=1).max() <= bound)
        best = gamma if holds else best
        gamma += step / 2 if holds else -step / 2
        step /= 2
    return best


def test_a_worked_vector() -> None:
    # Mean (2, 0); the largest distance is 2, so the point may be 2 away from (3, 0): (1, 0), a step of 1.
    own = updates([[1.0, 0.0], [3.0, 0.0]])
    assert craft("min_max", {}, own).tolist() == pytest.approx([1.0, 0.0])
    assert craft("min_max", {"direction": "sign"}, own).tolist() == pytest.approx([1.0, 0.0])
    # The deviation is sqrt(2) in the first coordinate: another factor, the same point.
    assert craft("min_max", {"direction": "std"}, own).tolist() == pytest.approx([1.0, 0.0])
    assert factor(own, "std") == pytest.approx(0.5**0.5)


@pytest.mark.parametrize(("name", "gamma"), [("unit", 1.61757), ("std", 1.30266), ("sign", 1.07431)])
def test_published_factors_of_six_rows(name: str, gamma: float) -> None:
    assert factor(updates(SIX_ROWS), name) == pytest.approx(gamma, abs=5e-5)


@pytest.mark.parametrize("name", DIRECTIONS)
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("malicious", [2, 3, 6])
def test_the_factor_is_that_of_the_search(name: str, seed: int, malicious: int) -> None:
    own = random_updates(malicious, 12, seed)
    direction = direction_of(name, own, mean_of(own)).double()
    assert factor(own, name) == pytest.approx(searched(own.matrix.double(), direction), abs=5e-5)


@pytest.mark.parametrize("name", DIRECTIONS)
def test_the_bound_holds_and_is_reached(name: str) -> None:
    own = random_updates(5, 300, seed=7)
    sent = craft("min_max", {"direction": name}, own)
    largest = float((own.matrix - sent).norm(dim=1).max())
    assert largest == pytest.approx(float(torch.cdist(own.matrix, own.matrix).max()), rel=1e-5)


@pytest.mark.parametrize("name", DIRECTIONS)
def test_it_scales_with_the_updates_and_ignores_their_order(name: str) -> None:
    own = random_updates(4, 60)
    sent = craft("min_max", {"direction": name}, own)
    assert torch.allclose(craft("min_max", {"direction": name}, updates(own.matrix * 1e-4)), sent * 1e-4, rtol=1e-4)
    assert torch.allclose(craft("min_max", {"direction": name}, updates(own.matrix[[2, 0, 3, 1]])), sent, atol=1e-5)


def test_blocks_of_coordinates_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    own = random_updates(3, 50)
    whole = factor(own, "std")
    monkeypatch.setattr("attacks._update_space._BLOCK", 7)
    assert factor(own, "std") == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize("name", DIRECTIONS)
@pytest.mark.parametrize(
    ("rows", "sent"),
    [
        ([[1.0, -2.0]], [1.0, -2.0]),  # a single client
        ([[1.0, -2.0], [1.0, -2.0]], [1.0, -2.0]),  # equal updates
        ([[0.0, 0.0]], [0.0, 0.0]),
    ],
)
def test_without_distances_the_mean_is_sent(name: str, rows: list[list[float]], sent: list[float]) -> None:
    assert craft("min_max", {"direction": name}, updates(rows)).tolist() == sent


@pytest.mark.parametrize("name", ["unit", "sign"])
def test_a_zero_mean_gives_no_direction(name: str) -> None:
    assert craft("min_max", {"direction": name}, updates([[1.0], [-1.0]])).tolist() == [0.0]


def test_a_direction_has_a_known_name() -> None:
    with pytest.raises(UsageError, match="direction is 'uv'; it is one of unit, sign, std"):
        attacks.get("min_max").create({"direction": "uv"})
