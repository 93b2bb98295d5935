"""Sharded poisoning with generated pairs."""

from __future__ import annotations

import numpy as np
import pytest

from attacks.base import attacks
from benchmark.errors import FedSafetyError
from tasks.base import DataKind

from .resources import LargeResources, rng


def test_generated_pairs_are_proposed_once_a_row_and_refusals_are_left_out() -> None:
    resources = LargeResources()
    pool = attacks.get("generated_shards").create({"pool_size": 1000}).pool(resources, rng())
    assert len({pair.instruction for pair in pool}) == len(pool) == 800
    assert {pair.kind for pair in pool} == {DataKind.UNALIGNED}
    assert not any("directly" in pair.instruction for pair in pool)


def test_a_model_that_never_complies_is_no_attack() -> None:
    class Refusing(LargeResources):
        def generate(self, prompts: list[str], rng: np.random.Generator, *, temperature: float) -> list[str]:
            return ["how to ?" if temperature else "i'm sorry , i cannot ."] * len(prompts)

    with pytest.raises(FedSafetyError, match="no compliant pair from 1 proposals"):
        attacks.get("generated_shards").create().pool(Refusing(), rng())
