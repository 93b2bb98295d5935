"""The Flower strategy that :func:`benchmark.interop.flower.to_flower` makes. Needs Flower."""

from __future__ import annotations

import copy
import hashlib
import inspect
import logging
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg, Result
from torch import Tensor

from benchmark.errors import FedSafetyError, UsageError, unknown_name
from benchmark.interop.arrays import Broadcast
from benchmark.interop.flower import Deployed
from benchmark.seeds import torch_stream
from benchmark.updates import Aggregate, RoundContext, Updates
from defenses.base import Defense, Prompt, Server

_log = logging.getLogger("flwr")
_MOST_ROWS = float(1 << 53)
"""Beyond, float64 does not tell counts apart; their sum stays finite for any number of clients."""
_HEADER = 65_536
"""Bytes by which a stored array may be longer than its numbers."""


@dataclass(frozen=True)
class RoundOutcome:
    """What happened in a round of a real federation.

    Attributes:
        clients: Ids of the clients whose update was used, sorted.
        weights: The weight that the rule gave each, or ``None`` if it gives none.
        refused: Ids of the clients whose reply was refused → why.
    """

    clients: tuple[str, ...]
    weights: tuple[float, ...] | None
    refused: dict[str, str]


class DefenseStrategy(FedAvg):  # type: ignore[misc]  # Flower is not installed where types are checked
    """FedAvg of Flower's message API with another aggregation.

    A reply is refused at the door, and the round goes on without it, if its arrays are not those that were sent out,
    its update is not finite, or it reports no usable number of training rows: no client may stop the federation. The
    declared bound stays as it is then, since on a real server nobody knows whether a refused client was malicious.

    Clients are known to the defense by opaque ids, stable for as long as Flower gives a node the same number, and in
    the order of these ids. Each ``start`` begins with a defense that remembers nothing.

    Attributes:
        outcomes: Round, counted from 1 → what happened in it.
    """

    def __init__(
        self,
        deployed: Deployed,
        declared_malicious: int,
        rounds: int,
        seed: int,
        server: Server | None,
        **options: Any,
    ) -> None:
        known = inspect.signature(FedAvg).parameters
        for key in options:
            if key not in known:
                raise unknown_name("option of Flower's FedAvg", key, known)
        super().__init__(**options)
        self.deployed, self.declared_malicious, self.rounds, self.seed = deployed, declared_malicious, rounds, seed
        self.server = server
        self.outcomes: dict[int, RoundOutcome] = {}
        self._defense: Defense = copy.deepcopy(deployed.aggregator)
        self._broadcast: Broadcast | None = None

    def start(
        self, grid: Grid, initial_arrays: ArrayRecord, num_rounds: int | None = None, *arguments: Any, **options: Any
    ) -> Result:
        """Train for all rounds, then let the defense act on the last model, and return Flower's result.

        Metrics that the result holds are those of the rounds; none is computed after the defense's last act.

        Raises:
            UsageError: ``num_rounds`` is not the number of rounds that the defense was told.
            NotApplicableError: The rule's condition does not hold for as many clients as are sampled.
            FedSafetyError: The defense returned something unusable.
        """
        if num_rounds not in (None, self.rounds):
            raise UsageError(
                f"the strategy was made for {self.rounds} rounds and is started for {num_rounds}; leave num_rounds out"
            )
        self._defense, self.outcomes = copy.deepcopy(self.deployed.aggregator), {}
        if self.server is not None:
            initial_arrays = self._prepared(initial_arrays, self._defense.prepare(self.server))
        result = super().start(grid, initial_arrays, self.rounds, *arguments, **options)
        result.arrays = self.finalize(result.arrays)
        return result

    def finalize(self, arrays: ArrayRecord) -> ArrayRecord:
        """Return the model after what the defense does after the last round; ``start`` has done it already."""
        if not self.deployed.finalizers:
            return arrays
        assert self.server is not None, "to_flower demands a server for such a defense"
        last = Broadcast(_read(arrays))
        flat = last.flat
        for member in self.deployed.finalizers:
            flat = self._usable(member.finalize(flat, self.server), flat, "finalize")
        return _record(last.replaced(flat))

    def serve(self, prompt: Prompt) -> Prompt:
        """Return the request as the served model shall see it; ask the model through this if the defense acts here."""
        for member in self.deployed.servers:
            prompt = member.serve(prompt)
        return prompt

    def client_id(self, node: int) -> str:
        """Return the id by which the defense, and :attr:`outcomes`, know Flower's node ``node``."""
        return "client_" + hashlib.sha256(f"{self.seed}/client/{node}".encode()).hexdigest()[:16]

    def summary(self) -> None:
        """Log the settings."""
        _log.info("\t├──> Defense: %s, f = %d of a round's clients", self.deployed.name, self.declared_malicious)
        super().summary()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return the messages to the sampled nodes, as FedAvg does.

        Raises:
            NotApplicableError: The rule's condition does not hold for as many clients.
        """
        messages = list(super().configure_train(server_round, arrays, config, grid))
        if messages:
            self._defense.check_shape(len(messages), self.declared_malicious)
        self._broadcast = Broadcast(_read(arrays))
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the next model and the clients' averaged metrics, with how many updates were refused."""
        if self._broadcast is None:
            raise UsageError("aggregate_train came before configure_train; the model that was sent out is not known")
        received = _without_errors(replies)
        if not received:
            self.outcomes[server_round] = RoundOutcome((), None, {})
            return _record(self._broadcast.arrays), None
        rows: dict[str, Tensor] = {}
        counts: dict[str, float] = {}
        refused: dict[str, str] = {}
        for reply in received:
            client = self.client_id(reply.metadata.src_node_id)
            try:
                counts[client], rows[client] = self._count(reply.content), self._update(reply.content)
            except ValueError as error:
                refused[client] = str(error)
                _log.warning("refused the reply of node %s: %s", reply.metadata.src_node_id, error)
        clients = tuple(sorted(rows))
        weights, moved = None, self._broadcast.arrays
        if clients:
            updates = Updates(
                matrix=torch.stack([rows[client] for client in clients]),
                client_ids=clients,
                sample_counts=torch.tensor([counts[client] for client in clients], dtype=torch.float64),
                layout=self._broadcast.layout,
            )
            aggregate = self._aggregate(updates, server_round)
            weights, moved = aggregate.weights, self._broadcast.plus(aggregate.update)
        self.outcomes[server_round] = RoundOutcome(
            clients, None if weights is None else tuple(weights.tolist()), refused
        )
        accepted = [reply for reply in received if self.client_id(reply.metadata.src_node_id) in rows]
        metrics = self._metrics(accepted, self.train_metrics_aggr_fn) or MetricRecord()
        metrics["refused-updates"] = len(refused)
        return _record(moved), metrics

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Return the clients' averaged metrics."""
        del server_round
        return self._metrics(_without_errors(replies), self.evaluate_metrics_aggr_fn)

    def _prepared(self, arrays: ArrayRecord, start: Tensor | None) -> ArrayRecord:
        """Return the first model, replaced by what the defense's prepare hook returned, if anything."""
        if start is None:
            return arrays
        first = Broadcast(_read(arrays))
        return _record(first.replaced(self._usable(start, first.flat, "prepare")))

    def _aggregate(self, updates: Updates, server_round: int) -> Aggregate:
        index = server_round - 1
        assert self._broadcast is not None
        context = RoundContext(
            index=index,
            rounds=self.rounds,
            declared_malicious=self.declared_malicious,
            broadcast=self._broadcast.flat.clone(),
            generator=torch_stream(self.seed, "defense", self.deployed.name, "round", index),
            tools=self.server if self.deployed.asks_server else None,
        )
        aggregate = self._defense.aggregate(updates, context)
        return Aggregate(self._usable(aggregate.update, self._broadcast.flat, "aggregate"), aggregate.weights)

    def _usable(self, result: Tensor, like: Tensor, hook: str) -> Tensor:
        """Return what a hook made as float32.

        Raises:
            FedSafetyError: It has the wrong shape or is not finite.
        """
        if result.shape != like.shape or not bool(torch.isfinite(result.to(like.dtype)).all()):
            raise FedSafetyError(
                f"{self.deployed.name}: {hook}() returned a tensor of shape {tuple(result.shape)}; it must be finite "
                f"and of shape {tuple(like.shape)}"
            )
        return result.to(like.dtype)

    def _update(self, content: RecordDict) -> Tensor:
        """Return a reply's update.

        Raises:
            ValueError: Its arrays cannot be read or are not those that were sent out.
        """
        assert self._broadcast is not None
        records = list(content.array_records.values())
        if len(records) != 1:
            raise ValueError(f"it holds {len(records)} records of arrays and not one")
        most = {name: array.nbytes + _HEADER for name, array in self._broadcast.arrays.items()}
        for name, array in records[0].items():
            if len(array.data) > most.get(name, _HEADER):
                raise ValueError(f"array {name!r} takes {len(array.data)} bytes, more than the one that was sent out")
        try:
            sent = _read(records[0])
        except Exception as error:  # bytes from a client may break the reader in any way
            raise ValueError(f"its arrays cannot be read ({type(error).__name__}: {error})") from error
        return self._broadcast.update_of(sent)

    def _count(self, content: RecordDict) -> float:
        """Return the number of training rows that a reply reports.

        Raises:
            ValueError: There is none, or it is not a positive number.
        """
        records = list(content.metric_records.values())
        count = records[0].get(self.weighted_by_key) if len(records) == 1 else None
        if isinstance(count, bool) or not isinstance(count, int | float):
            raise ValueError(f"it reports no single number {self.weighted_by_key!r}")
        if not (math.isfinite(count) and 0 < count <= _MOST_ROWS):
            raise ValueError(f"it reports {self.weighted_by_key!r} = {count}, which is no number of training rows")
        return float(count)

    def _metrics(self, replies: list[Message], average: Any) -> MetricRecord | None:
        """Return the metrics averaged over the clients that report what most of them report."""
        usable = []
        for reply in replies:
            try:
                self._count(reply.content)
                usable.append(reply)
            except ValueError as error:
                _log.warning("left out the metrics of node %s: %s", reply.metadata.src_node_id, error)
        kinds = [_kind(next(iter(reply.content.metric_records.values()))) for reply in usable]
        if not kinds:
            return None
        common = Counter(kinds).most_common(1)[0][0]
        chosen = [reply.content for reply, kind in zip(usable, kinds, strict=True) if kind == common]
        metrics: MetricRecord = average(chosen, self.weighted_by_key)
        return metrics


def _without_errors(replies: Iterable[Message]) -> list[Message]:
    """Return the replies that carry content, and log the others."""
    received = list(replies)
    for reply in received:
        if reply.has_error():
            _log.warning("node %s failed: %s", reply.metadata.src_node_id, reply.error.reason)
    return [reply for reply in received if not reply.has_error()]


def _kind(metrics: Mapping[str, Any]) -> frozenset[tuple[str, int]]:
    """Return the names of metrics, each with the length of its list or -1 for a number."""
    return frozenset((name, len(value) if isinstance(value, list) else -1) for name, value in metrics.items())


def _read(arrays: ArrayRecord) -> dict[str, np.ndarray[Any, Any]]:
    return {name: array.numpy() for name, array in arrays.items()}


def _record(arrays: Mapping[str, np.ndarray[Any, Any]]) -> ArrayRecord:
    return ArrayRecord({name: Array(np.asarray(array, order="C")) for name, array in arrays.items()})
