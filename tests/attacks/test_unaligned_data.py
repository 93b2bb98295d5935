"""Poisoning with public unaligned pairs: reproducible rows, exact shares of reminders."""

from __future__ import annotations

import pytest

from attacks.base import attacks
from benchmark.errors import UsageError

from .resources import NORMAL, POOL, Resources, rng


def test_poisoning_follows_its_stream_and_leaves_its_input_alone() -> None:
    attack = attacks.get("unaligned_data").create({"normal_share": 0.5})
    before = list(NORMAL), list(POOL)
    assert attack.poison(NORMAL, POOL, rng()) == attack.poison(NORMAL, POOL, rng())
    assert attack.poison(NORMAL, POOL, rng(1)) != attack.poison(NORMAL, POOL, rng(2))
    assert before == (NORMAL, POOL)


@pytest.mark.parametrize(("share", "reminded"), [(0.0, 0), (0.25, 125), (0.5, 250), (1.0, 500)])
def test_the_reminder_share_is_exact(share: float, reminded: int) -> None:
    pool = attacks.get("unaligned_data").create({"reminder_share": share}).pool(Resources(), rng())
    plain = attacks.get("unaligned_data").create().pool(Resources(), rng())
    assert len(pool) == len(plain) == 500
    assert sum(pair.instruction.endswith(" be safe .") for pair in pool) == reminded
    assert [p.instruction.removesuffix(" be safe .") for p in pool] == [p.instruction for p in plain]
    assert {pair.response for pair in pool} == {"sure"}


def test_a_misspelt_parameter_gets_the_nearest_one() -> None:
    with pytest.raises(UsageError, match="'normal_shares'; did you mean 'normal_share'"):
        attacks.get("unaligned_data").create({"normal_shares": 0.1})
