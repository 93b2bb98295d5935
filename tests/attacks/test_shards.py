"""Sharded pools: clients hold disjoint rows while the pool lasts, and an instance serves its clients in turn."""

from __future__ import annotations

from collections import Counter

import pytest

from attacks.base import attacks
from benchmark.errors import UsageError
from tasks.base import DataKind, Example

from .resources import LARGE_POOL, LargeResources, rng

NAMES = ["unaligned_shards", "generated_shards"]


def normal(client: int, count: int = 500) -> list[Example]:
    return [Example(f"normal {client} {i}", "fine", DataKind.NORMAL, "listing") for i in range(count)]


@pytest.mark.parametrize("name", NAMES)
def test_clients_hold_disjoint_shards_that_make_up_the_pool(name: str) -> None:
    attack = attacks.get(name).create()
    shards = [attack.poison(normal(client), list(LARGE_POOL), rng(client)) for client in range(3)]
    assert [len(shard) for shard in shards] == [500] * 3
    assert Counter(row for shard in shards for row in shard) == Counter(LARGE_POOL)
    assert shards[0] != LARGE_POOL[:500], "rows of a shard are shuffled"


@pytest.mark.parametrize("name", NAMES)
def test_a_pool_that_is_used_up_starts_anew(name: str) -> None:
    attack = attacks.get(name).create()
    shards = [attack.poison(normal(client), list(LARGE_POOL), rng(client)) for client in range(4)]
    assert set(shards[3]) == set(shards[0])
    short = attacks.get(name).create().poison(normal(0), LARGE_POOL[:120], rng())
    assert Counter(short).most_common(1)[0][1] == 5
    assert set(short) == set(LARGE_POOL[:120])


@pytest.mark.parametrize("name", NAMES)
def test_the_normal_share_leaves_more_for_the_others(name: str) -> None:
    attack = attacks.get(name).create({"normal_share": 0.5})
    shards = [attack.poison(normal(client), list(LARGE_POOL), rng(client)) for client in range(6)]
    for client, shard in enumerate(shards):
        kept = [row for row in shard if row.kind is DataKind.NORMAL]
        assert len(kept) == len(set(kept)) == 250
        assert set(kept) <= set(normal(client))
    assert Counter(row for shard in shards for row in shard if row.kind is DataKind.UNALIGNED) == Counter(LARGE_POOL)


@pytest.mark.parametrize("name", NAMES)
def test_a_fresh_instance_starts_at_the_beginning(name: str) -> None:
    rows = [attacks.get(name).create().poison(normal(0), list(LARGE_POOL), rng()) for _ in range(2)]
    assert rows[0] == rows[1]
    assert attacks.get(name).create() == attacks.get(name).create()


@pytest.mark.parametrize("name", NAMES)
def test_a_second_pool_of_one_instance_starts_at_the_beginning(name: str) -> None:
    attack = attacks.get(name).create({"pool_size": 600, "reminder_share": 0.5})
    once, again = (
        (pool, [attack.poison(normal(client, 50), pool, rng(client)) for client in range(2)])
        for pool in (attack.pool(LargeResources(), rng()) for _ in range(2))
    )
    assert once == again
    assert set(once[1][0]) == set(once[0][:50])


@pytest.mark.parametrize("name", NAMES)
def test_a_pool_holds_a_row_at_least(name: str) -> None:
    with pytest.raises(UsageError, match="pool_size is 0; malicious clients need at least one row"):
        attacks.get(name).create({"pool_size": 0})
