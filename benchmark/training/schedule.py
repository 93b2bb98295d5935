"""Clients, roles, participants and learning rate of every round."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np

from benchmark.seeds import stream
from benchmark.suites.suite import Partition, Scenario, TrainingSettings


@dataclass(frozen=True)
class Federation:
    """Clients of one run, with their roles and schedule.

    Attributes:
        client_ids: Opaque random ids, sorted, which do not reveal roles.
        compromised: Ids that an attacker controls. In an un-attacked twin the same ids hold benign data.
        participants: For each round the sorted ids that take part.
        task_shares: For each client its share of each task type, or ``None`` for equal shares.
    """

    client_ids: tuple[str, ...]
    compromised: frozenset[str]
    participants: tuple[tuple[str, ...], ...]
    task_shares: Mapping[str, Mapping[str, float] | None]


def cast(
    scenario: Scenario,
    training: TrainingSettings,
    task_types: tuple[str, ...],
    seed: int,
    phase: tuple[str, ...] = (),
) -> Federation:
    """Return the federation of run ``seed``. It depends on the scenario's shape only, never on its attack.

    A later ``phase`` of a run has the same clients and roles, but its own schedule. A schedule that is seeded by the
    round's number alone starts with round 0 again.
    """
    tokens = stream(seed, "client-ids").choice(1 << 16, size=scenario.clients, replace=False)
    client_ids = tuple(sorted(f"c{token:04x}" for token in tokens))
    # One permutation orders the compromised clients: a larger malicious count adds clients and replaces none.
    order = stream(seed, "roles").permutation(scenario.clients)
    compromised = frozenset(client_ids[i] for i in order[: scenario.malicious])
    if training.schedule == "round_seeded":
        # The released code numbers its malicious clients last; here ids are opaque, so numbers follow the roles.
        numbered = [client_ids[i] for i in reversed(order)]
        participants = _round_seeded(numbered, scenario.participants, training.rounds)
    else:
        draw = stream(seed, *phase, "schedule")
        participants = tuple(
            tuple(
                client_ids[i] for i in sorted(draw.choice(scenario.clients, size=scenario.participants, replace=False))
            )
            for _ in range(training.rounds)
        )
    shares = partition(scenario.partition, client_ids, task_types, stream(seed, "partition"))
    return Federation(client_ids, compromised, participants, shares)


def _round_seeded(numbered: Sequence[str], count: int, rounds: int) -> tuple[tuple[str, ...], ...]:
    """Return the participants of each round, drawn by the round's number alone as in repository 19dx/FedLLM-Attack.

    The draw is ``random.seed(round); random.sample(range(K), count)`` of Python's generator, the same for every run.
    """
    return tuple(
        tuple(sorted(numbered[i] for i in Random(index).sample(range(len(numbered)), count)))  # noqa: S311 - no secret
        for index in range(rounds)
    )


def partition(
    settings: Partition, client_ids: tuple[str, ...], task_types: tuple[str, ...], rng: np.random.Generator
) -> dict[str, Mapping[str, float] | None]:
    """Return each client's share of each task type: equal (``None``), or drawn from Dirichlet(alpha)."""
    if settings.alpha is None:
        return dict.fromkeys(client_ids, None)
    draws = rng.dirichlet([settings.alpha] * len(task_types), size=len(client_ids))
    return {
        client: dict(zip(task_types, map(float, draw), strict=True))
        for client, draw in zip(client_ids, draws, strict=True)
    }


def learning_rate(training: TrainingSettings, index: int) -> float:
    """Return the learning rate of round ``index``: a cosine over rounds from the initial rate to the floor."""
    progress = index / max(1, training.rounds - 1)
    span = training.learning_rate - training.learning_rate_floor
    return training.learning_rate_floor + span * 0.5 * (1.0 + math.cos(math.pi * progress))
