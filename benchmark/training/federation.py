"""Round loop of the fixed federated protocol: schedule, local training, craft, the server's door, aggregation.

:func:`run_federation` reads like the algorithm in a paper. Every step that it calls is one level down.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from attacks.base import Attack, AttackerView
from benchmark.errors import FedSafetyError
from benchmark.models.rows import TokenRow
from benchmark.seeds import integer, stream, torch_stream
from benchmark.suites.suite import Scenario, TrainingSettings
from benchmark.training.door import admitted, checked_aggregate, checked_start, rows_of
from benchmark.training.schedule import Federation, learning_rate
from benchmark.training.stacked import LocalTraining
from benchmark.updates import AdapterLayout, Aggregate, RoundContext, Updates
from defenses.base import Defense, Server


class LocalTrainer(Protocol):
    """Trainer of the adapters of a round's clients; stacked or sequential."""

    layout: AdapterLayout

    def train(
        self,
        start: Tensor,
        batches: Sequence[Sequence[Sequence[TokenRow]]],
        *,
        learning_rate: Sequence[float] | float,
        weight_decay: float = 0.0,
        clip_norm: float | None = None,
        dropout_seed: int | Sequence[int] | None = None,
    ) -> LocalTraining:
        """Return every client's adapter after local training from the same start."""


@dataclass(frozen=True)
class RoundRecord:
    """Record of a round; one row of the ``rounds`` table.

    Attributes:
        clients: Ids whose update was received, sorted.
        malicious: Whether each client is malicious.
        weights: Weight of each client in the rule (0 for refused updates), or ``None`` if the rule gives no weights.
        norms: L2 norm of each update; infinite or NaN for refused updates.
        losses: Mean training loss of each client.
        rejected: Ids of the clients whose update was refused at the door.
        learning_rate: Rate of the round.
        aggregate_seconds: Seconds in the defense's hook.
    """

    clients: tuple[str, ...]
    malicious: tuple[bool, ...]
    weights: tuple[float, ...] | None
    norms: tuple[float, ...]
    losses: tuple[float, ...]
    rejected: tuple[str, ...]
    learning_rate: float
    aggregate_seconds: float


@dataclass(frozen=True)
class FederationResult:
    """The trained global adapter (flat, ``[d]``), the record of every round, and seconds in the prepare hook.

    Without a round the adapter is the start, which the prepare hook may have replaced.
    """

    adapter: Tensor
    rounds: tuple[RoundRecord, ...]
    prepare_seconds: float


@dataclass(frozen=True)
class Setting:
    """Circumstances of a federation that neither the attack nor the defense decides.

    Attributes:
        scenario: Attack, shape and declared bound.
        training: Rounds, steps, rates.
        federation: Clients, roles and schedule of this seed.
        rows: Training rows of each client.
        seed: Run seed.
        owner: Name of the defense's own random streams.
        reveals_malicious: Whether the defense receives the ids of the malicious clients; for reference rows only.
        phase: Name of a later phase of the run, whose random streams are its own; empty for the first phase.
        lends_server: Whether the defense's hook ``aggregate`` gets the server's tools, because it declares to ask.
        prepared: Start that the defense's hook ``prepare`` returned earlier; ``None`` to call the hook.
    """

    scenario: Scenario
    training: TrainingSettings
    federation: Federation
    rows: Mapping[str, list[TokenRow]]
    seed: int
    owner: str
    reveals_malicious: bool = False
    phase: tuple[str, ...] = ()
    lends_server: bool = False
    prepared: Tensor | None = None

    @property
    def malicious(self) -> frozenset[str]:
        """Ids of the clients that the attack controls; empty in an un-attacked twin."""
        return self.federation.compromised if self.scenario.attacked else frozenset()


def run_federation(
    setting: Setting, trainer: LocalTrainer, start: Tensor, attack: Attack, defense: Defense, server: Server
) -> FederationResult:
    """Return the global adapter after all rounds.

    Args:
        setting: Scenario, settings, clients, rows and seed.
        trainer: Trains a round's clients.
        start: Flat adapter before round 1, unless the defense's prepare hook returns another.
        attack: Crafts the updates of malicious clients.
        defense: Aggregates the updates; a fresh instance.
        server: The server's metered tools.

    Raises:
        FedSafetyError: An honest update is not finite, or the defense returned an unusable start or aggregate.
    """
    training, seed, phase, malicious = setting.training, setting.seed, setting.phase, setting.malicious
    records = []
    began = time.perf_counter()
    prepared = defense.prepare(server) if setting.prepared is None else setting.prepared.to(start.device)
    adapter = checked_start(prepared, start, setting.owner)
    prepare_seconds = time.perf_counter() - began
    layout = trainer.layout.of_rank(trainer.layout.rank_of(len(adapter)))
    for index, participants in enumerate(setting.federation.participants if defense.uses_updates else ()):
        rate = learning_rate(training, index)
        local = trainer.train(
            adapter,
            [_batches(setting, client, index) for client in participants],
            learning_rate=rate,
            weight_decay=training.weight_decay,
            clip_norm=training.clip_norm,
            dropout_seed=[integer(seed, *phase, "dropout", client, index) for client in participants],
        )
        counts = torch.tensor([float(len(setting.rows[client])) for client in participants], dtype=torch.float64)
        # Rules and rows live in main memory, wherever the clients were trained.
        sent = Updates(local.adapters.to(adapter.device) - adapter, participants, counts, layout)
        sent = _crafted(sent, malicious, attack, index, adapter)
        received, rejected = admitted(sent, malicious)
        context = RoundContext(
            index=index,
            rounds=training.rounds,
            # Each refused update is a malicious one, so the updates that remain hold that many fewer attackers.
            declared_malicious=max(0, setting.scenario.declared_malicious - len(rejected)),
            broadcast=adapter.clone(),
            generator=torch_stream(seed, *phase, "defense", setting.owner, "round", index),
            malicious_ids=malicious if setting.reveals_malicious else None,
            tools=server if setting.lends_server else None,
        )
        norms = tuple(sent.matrix.double().norm(dim=1).tolist())
        began = time.perf_counter()
        if len(received):
            aggregate = checked_aggregate(defense.aggregate(received, context), received)
        else:
            aggregate = _nothing(received)
        seconds = time.perf_counter() - began
        adapter = adapter + aggregate.update
        records.append(
            RoundRecord(
                clients=sent.client_ids,
                malicious=tuple(client in malicious for client in sent.client_ids),
                weights=_weights(aggregate, received, sent),
                norms=norms,
                losses=tuple(local.losses.tolist()),
                rejected=rejected,
                learning_rate=rate,
                aggregate_seconds=seconds,
            )
        )
    return FederationResult(adapter, tuple(records), prepare_seconds)


def _batches(setting: Setting, client: str, index: int) -> list[list[TokenRow]]:
    """Return a client's batches of round ``index``: rows drawn without replacement."""
    rows, size, steps = setting.rows[client], setting.training.batch_size, setting.training.local_steps
    order = stream(setting.seed, *setting.phase, "local-order", client, index).permutation(len(rows))[: steps * size]
    return [[rows[i] for i in order[k * size : (k + 1) * size]] for k in range(steps)]


def _crafted(sent: Updates, malicious: frozenset[str], attack: Attack, index: int, broadcast: Tensor) -> Updates:
    """Return the updates with the malicious ones replaced by what the attack crafts from them."""
    attackers = [i for i, client in enumerate(sent.client_ids) if client in malicious]
    if not attackers:
        return sent
    view = AttackerView(round_index=index, participants=len(sent), broadcast=broadcast.clone())
    crafted = attack.craft(rows_of(sent, attackers), view)
    if crafted.matrix.shape != (len(attackers), sent.matrix.shape[1]):
        raise FedSafetyError(
            f"the attack crafted updates of shape {tuple(crafted.matrix.shape)}; "
            f"{len(attackers)} malicious clients send {(len(attackers), sent.matrix.shape[1])}"
        )
    matrix = sent.matrix.clone()
    matrix[attackers] = crafted.matrix.to(matrix.dtype)
    return replace(sent, matrix=matrix)


def _nothing(received: Updates) -> Aggregate:
    """Return the aggregate of a round whose updates were all refused; the adapter does not change."""
    return Aggregate(received.matrix.new_zeros(received.matrix.shape[1]), torch.zeros(0, dtype=torch.float64))


def _weights(aggregate: Aggregate, received: Updates, sent: Updates) -> tuple[float, ...] | None:
    """Return the weight of every client that sent an update: 0 for refused ones, ``None`` if the rule gives none."""
    if aggregate.weights is None:
        return None
    weights = dict(zip(received.client_ids, aggregate.weights.tolist(), strict=True))
    return tuple(weights.get(client, 0.0) for client in sent.client_ids)
