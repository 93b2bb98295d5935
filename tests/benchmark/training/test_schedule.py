"""Who takes part and who is malicious: by the run seed alone, and hidden from the server."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from benchmark.seeds import stream
from benchmark.suites.suite import Partition, Scenario, TrainingSettings, find_suite
from benchmark.training.schedule import Federation, cast, learning_rate, partition

TASKS = ("a", "b", "c", "d")
SEEDS = range(2000)


def training(rounds: int = 40) -> TrainingSettings:
    return TrainingSettings(
        rounds=rounds,
        local_steps=1,
        batch_size=1,
        rows_per_client=4,
        learning_rate=4e-3,
        learning_rate_floor=8e-5,
    )


def scenario(**changes: Any) -> Scenario:
    base = find_suite("micro").scenario("paper_shape")
    return Scenario(**(base.model_dump() | changes))


def federation(seed: int, rounds: int = 4, **changes: Any) -> Federation:
    return cast(scenario(**changes), training(rounds), TASKS, seed)


def test_the_twin_has_the_same_clients_schedule_and_data_shares() -> None:
    suite = find_suite("micro")
    for attacked in (s for s in suite.scenarios if s.attacked):
        ours = cast(attacked, suite.training, TASKS, 11)
        twin = cast(suite.scenario(attacked.twin), suite.training, TASKS, 11)
        assert (ours.client_ids, ours.participants, ours.task_shares) == (
            twin.client_ids,
            twin.participants,
            twin.task_shares,
        )
        assert len(ours.compromised) == attacked.malicious
        assert twin.compromised == frozenset()


def test_the_attack_changes_nothing_about_the_cast() -> None:
    plain = federation(5)
    assert federation(5, attack={"id": "generated_data"}, refusal_share=0.5, declared_malicious=2) == plain
    assert federation(6) != plain


def test_more_malicious_clients_are_the_same_and_others_besides() -> None:
    for seed in range(20):
        growing = [federation(seed, malicious=count).compromised for count in range(11)]
        assert [len(ids) for ids in growing] == list(range(11))
        assert all(fewer < more for fewer, more in pairwise(growing))


def test_ids_are_opaque_sorted_and_distinct() -> None:
    for seed in range(50):
        cast_of = federation(seed, rounds=8)
        assert len(set(cast_of.client_ids)) == 10
        assert list(cast_of.client_ids) == sorted(cast_of.client_ids)
        assert all(len(client) == 5 and client.startswith("c") for client in cast_of.client_ids)
        assert cast_of.compromised <= set(cast_of.client_ids)
        for participants in cast_of.participants:
            assert list(participants) == sorted(set(participants))
            assert set(participants) <= set(cast_of.client_ids)


def test_no_position_betrays_a_role() -> None:
    hits = np.zeros(10)
    for seed in SEEDS:
        cast_of = federation(seed, rounds=1)
        hits += [client in cast_of.compromised for client in cast_of.client_ids]
    # Chi-square with 9 degrees of freedom stays below 27.9 in 99.9 % of all draws; the seeds are fixed.
    expected = len(SEEDS) * 0.3
    assert ((hits - expected) ** 2 / (expected * 0.7)).sum() < 27.9


def test_attackers_take_part_as_often_as_drawing_three_of_ten_says() -> None:
    counts = np.zeros(4)
    for seed in SEEDS:
        cast_of = federation(seed)
        for participants in cast_of.participants:
            counts[len(cast_of.compromised & set(participants))] += 1
    total = counts.sum()
    expected = np.array([math.comb(3, k) * math.comb(7, 3 - k) / math.comb(10, 3) for k in range(4)])
    assert expected.round(4).tolist() == [0.2917, 0.525, 0.175, 0.0083]
    assert np.all(np.abs(counts / total - expected) < 4 * np.sqrt(expected * (1 - expected) / total))


def test_everybody_takes_part_where_all_are_drawn() -> None:
    cast_of = federation(3, participants=10)
    assert cast_of.participants == (cast_of.client_ids,) * 4


PRESENCE = {1: [76, 24, 0, 0], 2: [47, 49, 4, 0], 3: [28, 57, 14, 1], 4: [16, 53, 29, 2]}
"""Malicious of ten -> rounds of 100 with none, one, two and three of them, by the released code's sampler."""


@pytest.mark.parametrize("malicious", PRESENCE)
@pytest.mark.parametrize("seed", [1, 2023])
def test_the_published_schedule_has_its_attackers_in_the_published_rounds(malicious: int, seed: int) -> None:
    published = training(100).model_copy(update={"schedule": "round_seeded"})
    cast_of = cast(scenario(malicious=malicious), published, TASKS, seed)
    present = [len(cast_of.compromised & set(participants)) for participants in cast_of.participants]
    assert [present.count(k) for k in range(4)] == PRESENCE[malicious]
    assert sum(present) == {1: 24, 2: 57, 3: 88, 4: 117}[malicious]
    if malicious == 3:
        assert present[-6:] == [1, 2, 1, 0, 1, 1]


def test_the_published_schedule_is_that_of_pythons_generator() -> None:
    """Worked out once with ``random.seed(round); sorted(random.sample(range(10), 3))``."""
    draws = [(0, 6, 9), (1, 2, 4), (0, 1, 8), (2, 3, 8)]
    published = training(4).model_copy(update={"schedule": "round_seeded"})
    for seed in (5, 6):
        cast_of = cast(scenario(malicious=3), published, TASKS, seed)
        numbered = [cast_of.client_ids[i] for i in reversed(stream(seed, "roles").permutation(10))]
        assert set(numbered[7:]) == cast_of.compromised
        assert cast_of.participants == tuple(tuple(sorted(numbered[i] for i in draw)) for draw in draws)


def test_the_published_schedule_leaves_roles_and_data_alone() -> None:
    published = training().model_copy(update={"schedule": "round_seeded"})
    theirs, ours = cast(scenario(), published, TASKS, 7), cast(scenario(), training(), TASKS, 7)
    assert (theirs.client_ids, theirs.compromised) == (ours.client_ids, ours.compromised)
    assert theirs.participants != ours.participants


def test_equal_shares_without_a_partition() -> None:
    assert partition(Partition(), ("x", "y"), TASKS, stream(1, "partition")) == {"x": None, "y": None}


@pytest.mark.parametrize(("alpha", "low", "high"), [(0.1, 0.75, 1.0), (0.3, 0.55, 0.8), (1000.0, 0.25, 0.28)])
def test_dirichlet_shares_sum_to_one_and_skew_as_alpha_says(alpha: float, low: float, high: float) -> None:
    clients = tuple(f"c{i}" for i in range(400))
    shares = partition(Partition(kind="dirichlet", alpha=alpha), clients, TASKS, stream(1, "partition"))
    table = np.array([[(shares[client] or {})[task] for task in TASKS] for client in clients])
    assert table.sum(axis=1) == pytest.approx(1.0)
    assert table.min() >= 0
    assert low < table.max(axis=1).mean() < high
    assert table.mean(axis=0) == pytest.approx(0.25, abs=0.08)


def test_the_learning_rate_is_a_cosine_from_the_first_to_the_last_round() -> None:
    settings = training(41)
    rates = [learning_rate(settings, index) for index in range(41)]
    assert rates[0] == pytest.approx(4e-3)
    assert rates[20] == pytest.approx((4e-3 + 8e-5) / 2)
    assert rates[40] == pytest.approx(8e-5)
    assert all(earlier > later for earlier, later in pairwise(rates))
    assert learning_rate(training(1), 0) == pytest.approx(4e-3)
