"""Min-Sum: published factors of both bounds, the definition's sums, and degenerate rounds."""

from __future__ import annotations

import pytest
import torch

from attacks._update_space import DIRECTIONS, direction_of, mean_of, products_of
from attacks.base import attacks
from attacks.min_sum import BOUNDS, largest_factor
from benchmark.errors import UsageError
from benchmark.updates import Updates

from .update_space import SIX_ROWS, craft, random_updates, updates


def factor(own: Updates, name: str, bound: str) -> float:
    mean = mean_of(own)
    return largest_factor(products_of(own, mean, direction_of(name, own, mean)), bound)


def test_a_worked_vector() -> None:
    # Mean (3, 0). The nearest update is 0 away from it, and the farthest is 3 away.
    own = updates([[0.0, 0.0], [3.0, 0.0], [6.0, 0.0]])
    assert craft("min_sum", {}, own).tolist() == [3.0, 0.0]
    assert craft("min_sum", {"bound": "maximum"}, own).tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("bound", "name", "gamma"),
    [
        ("maximum", "unit", 1.54560),
        ("maximum", "std", 1.11158),
        ("maximum", "sign", 0.89235),
        ("minimum", "unit", 0.84982),
        ("minimum", "std", 0.61119),
        ("minimum", "sign", 0.49065),
    ],
)
def test_published_factors_of_six_rows(bound: str, name: str, gamma: float) -> None:
    assert factor(updates(SIX_ROWS), name, bound) == pytest.approx(gamma, abs=5e-5)


@pytest.mark.parametrize("name", DIRECTIONS)
@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("malicious", [2, 3, 6])
def test_the_sum_of_squared_distances_reaches_the_bound(name: str, bound: str, malicious: int) -> None:
    own = random_updates(malicious, 300, seed=malicious)
    sent = craft("min_sum", {"direction": name, "bound": bound}, own).double()
    matrix = own.matrix.double()
    sums = torch.cdist(matrix, matrix).square().sum(dim=1)
    expected = sums.min() if bound == "minimum" else sums.max()
    assert float((matrix - sent).square().sum()) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("name", DIRECTIONS)
@pytest.mark.parametrize("rows", [[[1.0, -2.0]], [[1.0, -2.0], [1.0, -2.0]]])
def test_a_single_client_and_equal_updates_send_the_mean(bound: str, name: str, rows: list[list[float]]) -> None:
    assert craft("min_sum", {"direction": name, "bound": bound}, updates(rows)).tolist() == [1.0, -2.0]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"direction": "uv"}, "direction is 'uv'; it is one of unit, sign, std"),
        ({"bound": "max"}, "bound is 'max'; it is one of minimum, maximum"),
    ],
)
def test_a_setting_has_a_known_name(params: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        attacks.get("min_sum").create(params)
