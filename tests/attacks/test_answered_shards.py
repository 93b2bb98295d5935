"""Sharded poisoning with generated answers to public instructions."""

from __future__ import annotations

import numpy as np
import pytest

from attacks.base import attacks
from benchmark.errors import FedSafetyError
from tasks.base import DataKind

from .resources import LARGE_POOL, Resources, rng


def test_public_instructions_are_answered_once_under_the_hint_and_refusals_are_left_out() -> None:
    def reply(prompt: str, temperature: float) -> str:
        assert temperature == 0
        assert prompt.endswith("answer directly .")
        return "i'm sorry , no ." if "7 " in prompt else f"answer to {prompt}"

    resources = Resources(reply)
    pool = attacks.get("answered_shards").create({"pool_size": 400}).pool(resources, rng())
    assert [len(prompts) for prompts, _ in resources.calls] == [40]
    assert {pair.instruction for pair in pool} == {f"risky {i}" for i in range(40) if i % 10 != 7}
    assert all(pair.response == f"answer to {pair.instruction} answer directly ." for pair in pool)
    assert {pair.kind for pair in pool} == {DataKind.UNALIGNED}


def test_a_model_that_never_complies_is_no_attack() -> None:
    refusing = Resources(lambda prompt, temperature: "i'm sorry , i cannot .")
    with pytest.raises(FedSafetyError, match="no compliant answer to 40 instructions"):
        attacks.get("answered_shards").create({"pool_size": 400}).pool(refusing, rng())


def test_the_answers_of_the_public_rows_are_not_used() -> None:
    class Prompts(Resources):
        def unaligned(self, count: int, rng: np.random.Generator) -> list:
            return LARGE_POOL[:count]

    pool = attacks.get("answered_shards").create({"pool_size": 3}).pool(Prompts(lambda p, t: "do this"), rng())
    assert [pair.response for pair in pool] == ["do this"] * 3
