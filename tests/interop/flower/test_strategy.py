"""The strategy on hand-made messages: the door, the model's arrays, state, hooks and errors. No simulation."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg
from flwr.supercore.task_identity import TaskIdentity
from torch import Tensor

from benchmark.errors import FedSafetyError, NotApplicableError, UsageError
from benchmark.interop.flower import to_flower
from benchmark.interop.flower_strategy import DefenseStrategy
from benchmark.updates import Aggregate, RoundContext, Updates
from defenses.base import Defense, Prompt

NODES = [9001, 17, 502, 88, 3, 41000, 7]
START = {
    "layer.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "scale": np.array(0.5, dtype=np.float32),
    "half": np.ones(2, dtype=np.float16),
    "steps": np.array(3, dtype=np.int64),
}
Arrays = dict[str, np.ndarray[Any, Any]]


@pytest.fixture(autouse=True)
def _as_in_a_server_app(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages can be made only where Flower has said which task the process runs."""
    for name, value in {"_task_id": 1, "_run_id": 1, "_node_id": 1}.items():
        monkeypatch.setattr(TaskIdentity, name, value)


class Grid:
    """Nodes that answer as told."""

    def __init__(self, answer: Callable[[int, Message], RecordDict], nodes: Iterable[int] = NODES) -> None:
        self.nodes, self.answer = list(nodes), answer

    def get_node_ids(self) -> list[int]:
        return self.nodes

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        return [Message(self.answer(m.metadata.dst_node_id, m), reply_to=m) for m in messages]


def record(arrays: Arrays) -> ArrayRecord:
    return ArrayRecord({name: Array(np.asarray(array)) for name, array in arrays.items()})


def moved(by: float, **changed: Any) -> Arrays:
    """Return the model as a client sends it after training moved every number by ``by``."""
    arrays = {name: (array + by).astype(array.dtype) for name, array in START.items() if name != "steps"}
    arrays["steps"] = START["steps"] + 10
    return {name: array for name, array in (arrays | changed).items() if array is not None}


def reply(arrays: Arrays | ArrayRecord, count: Any = 10, **metrics: Any) -> RecordDict:
    sent = arrays if isinstance(arrays, ArrayRecord) else record(arrays)
    return RecordDict({"arrays": sent, "metrics": MetricRecord({"num-examples": count, **metrics})})


def one_round(
    strategy: DefenseStrategy, answer: Callable[[int], RecordDict], order: Iterable[int] = NODES
) -> tuple[Arrays, MetricRecord]:
    """Return the model and the metrics after one round."""
    messages = list(strategy.configure_train(1, record(START), ConfigRecord(), Grid(lambda node, _: answer(node))))
    by_node = {message.metadata.dst_node_id: message for message in messages}
    replies = [Message(answer(node), reply_to=by_node[node]) for node in order]
    arrays, metrics = strategy.aggregate_train(1, replies)
    assert arrays is not None
    assert metrics is not None
    return {name: array.numpy() for name, array in arrays.items()}, metrics


def make(defense: str | Defense = "median", **options: Any) -> DefenseStrategy:
    options = {"declared_malicious": 2, "rounds": 2, "min_train_nodes": len(NODES), **options}
    return to_flower(defense, **options)


def test_it_is_a_flower_strategy() -> None:
    assert isinstance(make(), FedAvg)


def test_arrays_move_in_their_own_types_and_others_stay() -> None:
    arrays, _ = one_round(make(), lambda node: reply(moved(0.25)))
    for name, array in START.items():
        assert arrays[name].dtype == array.dtype
        assert arrays[name].shape == array.shape
        np.testing.assert_array_equal(arrays[name], array if name == "steps" else array + array.dtype.type(0.25))


def test_sample_counts_weigh_fedavg() -> None:
    counts = {node: 1 if node == 3 else 1000 for node in NODES}
    arrays, _ = one_round(make("fedavg"), lambda node: reply(moved(60.01 if node == 3 else 0.0), counts[node]))
    np.testing.assert_allclose(arrays["layer.weight"] - START["layer.weight"], 60.01 / 6001, rtol=1e-4)


def test_the_order_of_replies_changes_nothing_and_ids_are_opaque() -> None:
    def answer(node: int) -> RecordDict:
        return reply(moved(node / 50_000), node)

    first, again = make("dnc", seed=4), make("dnc", seed=4)
    one, _ = one_round(first, answer)
    other, _ = one_round(again, answer, reversed(NODES))
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name])
    clients = first.outcomes[1].clients
    assert clients == again.outcomes[1].clients == tuple(sorted(first.client_id(node) for node in NODES))
    assert not any(str(node) == client.removeprefix("client_") for node in NODES for client in clients)
    assert set(clients).isdisjoint(make("dnc", seed=5).client_id(node) for node in NODES)


LIAR = 88


def raw(name: str, data: bytes) -> ArrayRecord:
    sent = record(moved(1.0))
    sent[name] = Array("float32", START[name].shape, "numpy.ndarray", data)
    return sent


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (lambda: reply(moved(1.0, scale=None)), "array 'scale' is missing"),
        (lambda: reply(moved(1.0, extra=np.zeros(1))), "array 'extra' is not one that was sent out"),
        (lambda: reply(moved(1.0, scale=np.zeros(2))), "array 'scale' has shape (2,) and not ()"),
        (lambda: reply(moved(1.0, half=np.zeros(2, dtype=np.int8))), "array 'half' holds int8"),
        (lambda: reply(moved(float("nan"))), "its update is not finite"),
        (lambda: reply(moved(1.0, scale=np.array(-np.inf))), "its update is not finite"),
        (lambda: reply(moved(1.0, scale=np.array(1e30))), "its update is not finite, or so large"),
        (lambda: reply(moved(1.0, scale=np.array(1e200))), "its update is not finite, or so large"),
        (lambda: reply(raw("scale", b"no array")), "its arrays cannot be read"),
        (lambda: reply(raw("scale", b"")), "its arrays cannot be read"),
        (lambda: reply(raw("scale", bytes(100_000))), "array 'scale' takes 100000 bytes, more than the one"),
        (lambda: reply(moved(1.0), 0), "'num-examples' = 0, which is no number of training rows"),
        (lambda: reply(moved(1.0), -5), "'num-examples' = -5, which"),
        (lambda: reply(moved(1.0), float("nan")), "'num-examples' = nan, which"),
        (lambda: reply(moved(1.0), 1e300), "'num-examples' = 1e+300, which"),
        (lambda: reply(moved(1.0), [10]), "it reports no single number 'num-examples'"),
        (lambda: RecordDict({"arrays": record(moved(1.0))}), "it reports no single number 'num-examples'"),
        (lambda: RecordDict({"metrics": MetricRecord({"num-examples": 1})}), "it holds 0 records of arrays"),
        (lambda: RecordDict(), "it reports no single number"),
    ],
)
def test_an_unusable_reply_is_refused_and_the_round_goes_on(bad: Callable[[], RecordDict], reason: str) -> None:
    strategy = make("fedavg")
    arrays, metrics = one_round(strategy, lambda node: bad() if node == LIAR else reply(moved(0.5), loss=2.0))
    np.testing.assert_array_equal(arrays["layer.weight"], START["layer.weight"] + 0.5)
    assert dict(metrics) == {"loss": pytest.approx(2.0), "refused-updates": 1}
    outcome = strategy.outcomes[1]
    assert list(outcome.refused) == [strategy.client_id(LIAR)]
    assert reason in outcome.refused[strategy.client_id(LIAR)]
    assert len(outcome.clients) == 6


def test_where_all_are_refused_the_model_stays() -> None:
    arrays, metrics = one_round(make(), lambda node: reply(moved(float("inf"))))
    assert all(np.array_equal(arrays[name], array) for name, array in START.items())
    assert dict(metrics) == {"refused-updates": 7}


def test_where_nobody_answers_the_model_stays() -> None:
    strategy = make()
    list(strategy.configure_train(1, record(START), ConfigRecord(), Grid(lambda node, _: RecordDict())))
    arrays, metrics = strategy.aggregate_train(1, [])
    assert metrics is None
    assert arrays is not None
    assert all(np.array_equal(arrays[name].numpy(), array) for name, array in START.items())


def test_odd_metrics_of_one_client_do_not_stop_the_round() -> None:
    def answer(node: int) -> RecordDict:
        return reply(moved(0.5), loss=2.0) if node != LIAR else reply(moved(0.5), loss=[1.0, 2.0], more=1)

    strategy = make()
    _, metrics = one_round(strategy, answer)
    assert dict(metrics) == {"loss": pytest.approx(2.0), "refused-updates": 0}
    messages = strategy.configure_evaluate(1, record(START), ConfigRecord(), Grid(lambda node, _: answer(node)))
    replies = [Message(answer(message.metadata.dst_node_id), reply_to=message) for message in messages]
    assert dict(strategy.aggregate_evaluate(1, replies) or {}) == {"loss": pytest.approx(2.0)}


def run(strategy: DefenseStrategy, **options: Any) -> Any:
    def answer(node: int, message: Message) -> RecordDict:
        if message.metadata.message_type == "evaluate":
            return RecordDict({"metrics": MetricRecord({"num-examples": 1})})
        sent = {name: array.numpy() for name, array in message.content["arrays"].items()}
        return reply({name: (array * (1 + node / 10_000)).astype(array.dtype) for name, array in sent.items()})

    return strategy.start(Grid(answer), record(START), **options)


def test_every_start_begins_with_a_defense_that_remembers_nothing() -> None:
    strategy = make("foolsgold")
    first, again = run(strategy), run(strategy)
    assert first.arrays == again.arrays
    assert sorted(strategy.outcomes) == [1, 2]


def test_the_defense_is_told_the_round_and_draws_from_its_own_stream() -> None:
    seen: list[tuple[int, int, int, float, int]] = []

    class Watch(Defense):
        def aggregate(self, updates: Updates, context: RoundContext) -> Aggregate:
            drawn = float(torch.rand(1, generator=context.generator))
            assert context.malicious_ids is None
            assert updates.layout.names == ("layer.weight", "scale", "half")
            seen.append((context.index, context.rounds, context.declared_malicious, drawn, len(updates)))
            return super().aggregate(updates, context)

    run(make(Watch()))
    run(make(Watch()))
    assert [each[:3] for each in seen] == [(0, 2, 2), (1, 2, 2)] * 2
    assert seen[:2] == seen[2:]
    assert seen[0][3] != seen[1][3]


def test_a_shape_outside_the_rules_condition_is_refused_before_anybody_trains() -> None:
    with pytest.raises(NotApplicableError, match=r"krum needs n >= 2f \+ 3.*f = 3 needs n >= 9, but n = 7"):
        run(make("krum", declared_malicious=3))


def test_unusable_results_stop_the_run() -> None:
    class Broken(Defense):
        def aggregate(self, updates: Updates, context: RoundContext) -> Aggregate:
            return Aggregate(updates.matrix.sum(dim=0) / 0)

    with pytest.raises(
        FedSafetyError, match=r"Broken: aggregate\(\) returned a tensor of shape \(9,\); it must be fin"
    ):
        run(make(Broken()))


class Tools:
    """The part of a server's tools that the test's defense uses."""

    def finetune(self, adapter: Tensor, examples: list[object]) -> Tensor:
        return adapter * 2


class Repair(Defense):
    def __init__(self) -> None:
        self.calls: list[str] = []

    def prepare(self, server: Any) -> None:
        self.calls.append("prepare")

    def finalize(self, adapter: Tensor, server: Any) -> Tensor:
        return server.finetune(adapter, [])

    def serve(self, prompt: Prompt) -> Prompt:
        return Prompt(prompt.instruction + "!")


def test_the_last_act_works_on_the_last_model_with_the_servers_own_tools() -> None:
    plain, repaired = run(make("fedavg")), run(make(Repair(), server=Tools()))
    for name, array in plain.arrays.items():
        expected = array.numpy() if name == "steps" else array.numpy() * 2
        np.testing.assert_allclose(repaired.arrays[name].numpy(), expected, rtol=1e-3)


def test_hooks_before_the_first_round_and_when_answering() -> None:
    given = Repair()
    strategy = make(given, server=Tools())
    run(strategy)
    assert strategy._defense.calls == ["prepare"]
    assert given.calls == [], "the given instance stays as it is"
    assert strategy.serve(Prompt("Hello")) == Prompt("Hello!")


class Starting(Defense):
    def __init__(self, start: Tensor | None) -> None:
        self.start = start

    def prepare(self, server: Any) -> Tensor | None:
        return self.start


def test_the_first_model_is_what_prepare_returns() -> None:
    numbers = sum(array.size for array in START.values() if array.dtype.kind == "f")
    plain, zero = (run(make(Starting(start), server=Tools())) for start in (None, torch.zeros(numbers)))
    for name, array in START.items():
        if array.dtype.kind == "f":  # clients multiply the numbers that they are sent
            assert plain.arrays[name].numpy().any()
            assert not zero.arrays[name].numpy().any()
    with pytest.raises(FedSafetyError, match=r"prepare\(\) returned a tensor of shape \(3,\)"):
        run(make(Starting(torch.zeros(3)), server=Tools()))


def test_wrong_use_is_told() -> None:
    with pytest.raises(UsageError, match="made for 2 rounds and is started for 5"):
        run(make(), num_rounds=5)
    with pytest.raises(UsageError, match="aggregate_train came before configure_train"):
        make().aggregate_train(1, [])
    with pytest.raises(UsageError, match="did you mean 'fraction_train'"):
        make(fraction_trian=0.5)
    with pytest.raises(UsageError, match="holds no array of floating-point numbers"):
        make().configure_train(1, record({"steps": np.array(1)}), ConfigRecord(), Grid(lambda node, _: RecordDict()))
