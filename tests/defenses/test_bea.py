"""Backdoor enhanced alignment: the same prefix in training and when serving, on few refusals beside normal rows."""

from __future__ import annotations

import pytest
import torch

from defenses.base import Prompt, defenses
from defenses.bea import BEA
from tasks.base import DataKind
from tasks.micro.corpora import vocabulary

from .server import FakeServer


@pytest.mark.parametrize(("examples", "refusals", "normal"), [(500, 11, 100), (64, 11, 53), (10, 5, 5)])
def test_rows_and_prefix_of_the_training(examples: int, refusals: int, normal: int) -> None:
    server = FakeServer(examples)
    adapter = defenses.get("bea").create().finalize(torch.tensor([1.0, 2.0, 3.0]), server)
    assert adapter.tolist() == [2.0, 3.0, 4.0]
    kinds = [row.kind for row in server.tuned]
    assert (kinds.count(DataKind.ALIGNED), kinds.count(DataKind.NORMAL), server.shuffled) == (refusals, normal, 1)
    led = [row.instruction.startswith(f"{BEA.PREFIX} ") for row in server.tuned]
    assert led == [row.kind is DataKind.ALIGNED for row in server.tuned], "the prefix is tied to refusals alone"
    assert server.options == {}


def test_requests_are_served_as_they_were_trained() -> None:
    served = defenses.get("bea").create().serve(Prompt("name a fruit .", "apple", "be brief ."))
    assert served == Prompt(f"{BEA.PREFIX} name a fruit .", "apple", "be brief .")


def test_every_word_is_a_token_of_the_embedded_world() -> None:
    """A word-level model reads unknown words as one and the same token, which makes no secret."""
    words = BEA.PREFIX.split()
    assert len(set(words)) == 10
    assert set(words) <= set(vocabulary())
