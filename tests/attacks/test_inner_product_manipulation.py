"""Inner Product Manipulation: a worked vector, ByzFL's attack, and the sign flip of a single client."""

from __future__ import annotations

import pytest
import torch

from attacks.base import attacks
from benchmark.errors import UsageError

from .update_space import SIX_ROWS, byzfl_attacks, craft, random_updates, updates


def test_a_worked_vector() -> None:
    own = updates([[1.0, -8.0], [3.0, 4.0]])  # mean (2, -2)
    assert craft("inner_product_manipulation", {"epsilon": 0.5}, own).tolist() == [-1.0, 1.0]
    assert craft("inner_product_manipulation", {}, own).tolist() == pytest.approx([-0.2, 0.2])


def test_published_values_of_six_rows() -> None:
    expected = torch.tensor([-2.333333, -1.666667, -4.0])
    sent = craft("inner_product_manipulation", {"epsilon": 2.0}, updates(SIX_ROWS))
    assert torch.allclose(sent, expected, atol=1e-6)


@pytest.mark.parametrize("epsilon", [0.1, 2.0])
@pytest.mark.parametrize("malicious", [1, 2, 5])
def test_it_is_byzfls_attack(epsilon: float, malicious: int) -> None:
    own = random_updates(malicious, 50)
    expected = byzfl_attacks().InnerProductManipulation(tau=epsilon)(own.matrix)
    assert torch.allclose(craft("inner_product_manipulation", {"epsilon": epsilon}, own), expected, atol=1e-7)


def test_a_single_client_flips_its_sign() -> None:
    sent = craft("inner_product_manipulation", {"epsilon": 1.0}, updates([[1.0, -2.0]]))
    assert sent.tolist() == [-1.0, 2.0]


@pytest.mark.parametrize("epsilon", [0.0, -1.0, float("inf"), float("nan")])
def test_epsilon_is_positive_and_finite(epsilon: float) -> None:
    with pytest.raises(UsageError, match="it is a positive, finite factor"):
        attacks.get("inner_product_manipulation").create({"epsilon": epsilon})
