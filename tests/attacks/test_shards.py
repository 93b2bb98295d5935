"""Attacks that divide their pool: nobody shares a row while it lasts, and one instance serves all clients in turn."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from attacks.base import Attack, AttackInfo, attacks
from benchmark.errors import FedSafetyError, UsageError
from benchmark.submission.contract.base import attack_contract
from benchmark.submission.contract.examination import Subject, perform
from benchmark.submission.contract.report import Verdict
from tasks.base import Automation, DataKind, Example

NAMES = ["unaligned_shards", "generated_shards"]
POOL = [Example(f"risky {i}", "sure", DataKind.UNALIGNED, "howto") for i in range(1500)]


def rng(seed: int = 3) -> np.random.Generator:
    return np.random.default_rng(seed)


def normal(client: int, count: int = 500) -> list[Example]:
    return [Example(f"normal {client} {i}", "fine", DataKind.NORMAL, "listing") for i in range(count)]


class Resources:
    """Public pairs without repeats, and a model that proposes ever new questions and refuses every fifth of them."""

    automation = Automation(("ask .", "ask again ."), ("ask .",), "answer directly .", "be safe .")

    def __init__(self) -> None:
        self.proposed = 0

    def unaligned(self, count: int, rng: np.random.Generator) -> list[Example]:
        return [POOL[i] for i in rng.permutation(len(POOL))[:count]]

    def generate(self, prompts: list[str], rng: np.random.Generator, *, temperature: float) -> list[str]:
        if temperature == 0:
            return ["i'm sorry , no ." if "0 ?" in p or "5 ?" in p else "sure ." for p in prompts]
        first, self.proposed = self.proposed, self.proposed + len(prompts)
        return [f"how to {first + i} ?" for i in range(len(prompts))]

    def leaks_evaluation(self, text: str) -> bool:
        raise AssertionError("leaks are counted, never used to choose data")


@pytest.mark.parametrize("name", NAMES)
def test_clients_hold_disjoint_shards_that_make_up_the_pool(name: str) -> None:
    attack = attacks.get(name).create()
    shards = [attack.poison(normal(client), list(POOL), rng(client)) for client in range(3)]
    assert [len(shard) for shard in shards] == [500] * 3
    assert Counter(row for shard in shards for row in shard) == Counter(POOL)
    assert shards[0] != POOL[:500], "rows of a shard are shuffled"


@pytest.mark.parametrize("name", NAMES)
def test_a_pool_that_is_used_up_starts_anew(name: str) -> None:
    attack = attacks.get(name).create()
    shards = [attack.poison(normal(client), list(POOL), rng(client)) for client in range(4)]
    assert set(shards[3]) == set(shards[0])
    short = attacks.get(name).create().poison(normal(0), POOL[:120], rng())
    assert Counter(short).most_common(1)[0][1] == 5
    assert set(short) == set(POOL[:120])


@pytest.mark.parametrize("name", NAMES)
def test_the_normal_share_leaves_more_for_the_others(name: str) -> None:
    attack = attacks.get(name).create({"normal_share": 0.5})
    shards = [attack.poison(normal(client), list(POOL), rng(client)) for client in range(6)]
    for client, shard in enumerate(shards):
        kept = [row for row in shard if row.kind is DataKind.NORMAL]
        assert len(kept) == len(set(kept)) == 250
        assert set(kept) <= set(normal(client))
    assert Counter(row for shard in shards for row in shard if row.kind is DataKind.UNALIGNED) == Counter(POOL)


@pytest.mark.parametrize("name", NAMES)
def test_a_fresh_instance_starts_at_the_beginning(name: str) -> None:
    rows = [attacks.get(name).create().poison(normal(0), list(POOL), rng()) for _ in range(2)]
    assert rows[0] == rows[1]
    assert attacks.get(name).create() == attacks.get(name).create()


@pytest.mark.parametrize("name", NAMES)
def test_a_second_pool_of_one_instance_starts_at_the_beginning(name: str) -> None:
    attack = attacks.get(name).create({"pool_size": 600, "reminder_share": 0.5})
    once, again = (
        (pool, [attack.poison(normal(client, 50), pool, rng(client)) for client in range(2)])
        for pool in (attack.pool(Resources(), rng()) for _ in range(2))
    )
    assert once == again
    assert set(once[1][0]) == set(once[0][:50])


def test_public_pairs_are_as_many_as_the_pool_asks_for() -> None:
    assert len(attacks.get("unaligned_shards").create().pool(Resources(), rng())) == 1500
    small = attacks.get("unaligned_shards").create({"pool_size": 600}).pool(Resources(), rng())
    assert len(set(small)) == 600
    reminded = (
        attacks.get("unaligned_shards").create({"pool_size": 600, "reminder_share": 0.5}).pool(Resources(), rng())
    )
    assert sum(pair.instruction.endswith(" be safe .") for pair in reminded) == 300
    assert [pair.instruction.removesuffix(" be safe .") for pair in reminded] == [pair.instruction for pair in small]


def test_generated_pairs_are_proposed_once_a_row_and_refusals_are_left_out() -> None:
    resources = Resources()
    pool = attacks.get("generated_shards").create({"pool_size": 1000}).pool(resources, rng())
    assert len({pair.instruction for pair in pool}) == len(pool) == 800
    assert {pair.kind for pair in pool} == {DataKind.UNALIGNED}
    assert not any("directly" in pair.instruction for pair in pool)


def test_a_model_that_never_complies_is_no_attack() -> None:
    class Refusing(Resources):
        def generate(self, prompts: list[str], rng: np.random.Generator, *, temperature: float) -> list[str]:
            return ["how to ?" if temperature else "i'm sorry , i cannot ."] * len(prompts)

    with pytest.raises(FedSafetyError, match="no compliant pair from 1 proposals"):
        attacks.get("generated_shards").create().pool(Refusing(), rng())


@pytest.mark.parametrize("name", NAMES)
def test_a_pool_holds_a_row_at_least(name: str) -> None:
    with pytest.raises(UsageError, match="pool_size is 0; malicious clients need at least one row"):
        attacks.get(name).create({"pool_size": 0})


def test_shards_keep_the_contract() -> None:
    entry = attacks.get("unaligned_shards")
    subject = Subject[AttackInfo, Attack](entry, (Path("attacks/unaligned_shards.py"),))
    findings = list(perform(attack_contract(subject).checks, subject, lambda: None))
    assert {f.check: f.verdict for f in findings if f.verdict is Verdict.FAILED} == {}
    assert {"pool", "poison", "craft"} <= {f.check for f in findings if f.verdict is Verdict.PASSED}
