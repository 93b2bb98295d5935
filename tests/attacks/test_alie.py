"""A Little Is Enough: a worked vector, ByzFL's attack, the paper's z, and the degenerate single client."""

from __future__ import annotations

import math

import pytest
import torch

from attacks.alie import deviations
from attacks.base import attacks
from benchmark.errors import UsageError

from .update_space import SIX_ROWS, byzfl_attacks, craft, random_updates, updates


def test_a_worked_vector() -> None:
    # Means 2 and 10; sample deviations sqrt((1 + 0 + 1) / 2) = 1 and sqrt((4 + 0 + 4) / 2) = 2.
    own = updates([[1.0, 8.0], [2.0, 10.0], [3.0, 12.0]])
    assert craft("alie", {"z": 2.0}, own).tolist() == [0.0, 6.0]
    assert craft("alie", {}, own).tolist() == [0.5, 7.0]


def test_published_values_of_six_rows() -> None:
    expected = torch.tensor([2.295826, 1.962492, 3.341641])
    assert torch.allclose(craft("alie", {"z": -1.5}, updates(SIX_ROWS)), expected, atol=1e-6)


@pytest.mark.parametrize("z", [0.3, 1.5, -1.5])
@pytest.mark.parametrize("malicious", [2, 3, 7])
def test_it_is_byzfls_attack_with_the_other_sign(z: float, malicious: int) -> None:
    own = random_updates(malicious, 50)
    expected = byzfl_attacks().ALittleIsEnough(tau=-z)(own.matrix)
    assert torch.allclose(craft("alie", {"z": z}, own), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("participants", "malicious", "z"),
    [(10, 3, 0.180), (10, 2, 0.0), (20, 4, 0.157), (50, 10, 0.253), (10, 1, -0.140)],
)
def test_the_formula_gives_published_values(participants: int, malicious: int, z: float) -> None:
    assert deviations(participants, malicious) == pytest.approx(z, abs=5e-4)


@pytest.mark.parametrize(("participants", "malicious"), [(3, 2), (3, 3), (10, 6), (2, 1), (1, 1)])
def test_where_the_formula_has_no_value_z_is_fixed(participants: int, malicious: int) -> None:
    assert deviations(participants, malicious) == 1.5


def test_the_formula_uses_the_numbers_of_the_round() -> None:
    own = random_updates(3, 20)
    z = deviations(10, 3)
    assert torch.equal(craft("alie", {"z": "formula"}, own, 10), craft("alie", {"z": z}, own))
    assert not torch.equal(craft("alie", {"z": "formula"}, own, 10), craft("alie", {"z": "formula"}, own, 11))


@pytest.mark.parametrize("z", [1.5, "formula"])
def test_a_single_client_sends_its_update_as_trained(z: float | str) -> None:
    assert craft("alie", {"z": z}, updates([[1.0, -2.0]])).tolist() == [1.0, -2.0]


@pytest.mark.parametrize("z", [0.0, math.inf, math.nan, "auto"])
def test_z_is_finite_and_moves_the_mean(z: float | str) -> None:
    with pytest.raises(UsageError, match=r"it is (finite and not 0|a number)"):
        attacks.get("alie").create({"z": z})
