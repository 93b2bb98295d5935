"""Neurotoxin: zeros where the global adapter moved most in the last round."""

from __future__ import annotations

import pytest
import torch

from attacks.base import AttackerView, attacks
from benchmark.errors import UsageError

from .update_space import updates

OWN = updates([[1.0, 2.0, 3.0, 4.0, 5.0], [6.0, 7.0, 8.0, 9.0, 10.0]])


def test_the_first_round_is_sent_as_trained() -> None:
    attack = attacks.get("neurotoxin").create({"mask_share": 0.4})
    assert torch.equal(attack.craft(OWN, AttackerView(0, 10, torch.ones(5))).matrix, OWN.matrix)


def test_later_rounds_leave_out_what_moved_most() -> None:
    """The changes are 0.1, -3, 0, 2 and 1, so two of five are the second and the fourth."""
    attack = attacks.get("neurotoxin").create({"mask_share": 0.4})
    attack.craft(OWN, AttackerView(0, 10, torch.zeros(5)))
    sent = attack.craft(OWN, AttackerView(1, 10, torch.tensor([0.1, -3.0, 0.0, 2.0, 1.0]))).matrix
    assert sent.tolist() == [[1.0, 0.0, 3.0, 0.0, 5.0], [6.0, 0.0, 8.0, 0.0, 10.0]]
    assert OWN.matrix[0, 1] == 2.0
    again = attack.craft(OWN, AttackerView(2, 10, torch.tensor([5.1, -3.0, 0.0, 2.0, 1.5]))).matrix
    assert again[0].tolist() == [0.0, 2.0, 3.0, 4.0, 0.0], "the change of the last round alone counts"


def test_two_instances_share_no_memory() -> None:
    first, second = (attacks.get("neurotoxin").create({"mask_share": 0.4}) for _ in range(2))
    first.craft(OWN, AttackerView(0, 10, torch.zeros(5)))
    assert torch.equal(second.craft(OWN, AttackerView(1, 10, torch.ones(5))).matrix, OWN.matrix)


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_share_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(UsageError, match="mask_share is"):
        attacks.get("neurotoxin").create({"mask_share": share})
