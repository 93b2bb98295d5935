"""The round loop, with a trainer that needs no model: every client's update is what the test says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from attacks.base import Attack, AttackerView, attacks
from benchmark.errors import FedSafetyError
from benchmark.models.rows import TokenRow
from benchmark.suites.suite import Scenario, TrainingSettings, find_suite
from benchmark.training.clients import Attacker, make_client_rows
from benchmark.training.federation import FederationResult, Setting, run_federation
from benchmark.training.schedule import Federation
from benchmark.training.schedule import cast as cast_roles
from benchmark.training.served import ServedModel
from benchmark.training.stacked import LocalTraining
from benchmark.updates import AdapterLayout, Aggregate, RoundContext, Updates
from defenses.base import Defense, Server, Stage, defenses
from tasks.base import Example, TaskWorld

TRAINING = TrainingSettings(
    rounds=3, local_steps=2, batch_size=2, rows_per_client=8, learning_rate=1e-2, learning_rate_floor=1e-3
)
LAYOUT = AdapterLayout(("layer.lora_A", "layer.lora_B"), ((1, 2), (2, 1)))
SCENARIO = find_suite("micro").scenario("aligned_start")
SEED = 11


class FakeTrainer:
    """Moves each client's adapter by a vector that depends on the client's first row."""

    layout = LAYOUT

    def __init__(self, moves: dict[int, Sequence[float]]) -> None:
        self.moves = moves
        self.calls: list[dict[str, Any]] = []

    def train(self, start: Tensor, batches: Sequence[Sequence[Sequence[TokenRow]]], **settings: Any) -> LocalTraining:
        self.calls.append({"start": start.clone(), "batches": batches, **settings})
        steps = torch.tensor([self.moves[client[0][0].ids[0]] for client in batches])
        return LocalTraining(start + steps, torch.arange(len(batches), dtype=torch.float64))


class Recording(Defense):
    """FedAvg that remembers what it saw."""

    def __init__(self) -> None:
        self.seen: list[tuple[Updates, RoundContext]] = []

    def aggregate(self, updates: Updates, context: RoundContext) -> Aggregate:
        self.seen.append((updates, context))
        return super().aggregate(updates, context)


class Crafting(Attack):
    """Sends a given row in place of every malicious one."""

    def __init__(self, row: Sequence[float]) -> None:
        self.row = torch.tensor(row)
        self.seen: list[tuple[Updates, AttackerView]] = []

    def craft(self, own: Updates, view: AttackerView) -> Updates:
        self.seen.append((own, view))
        return replace(own, matrix=self.row.expand(len(own), -1))


def federation(scenario: Scenario = SCENARIO) -> Federation:
    return cast_roles(scenario, TRAINING, ("w1",), SEED)


def run(
    defense: Defense,
    attack: Attack | None = None,
    *,
    scenario: Scenario = SCENARIO,
    moves: Callable[[str, bool], Sequence[float]] = lambda _, malicious: [9.0] * 4 if malicious else [1.0] * 4,
    reveals_malicious: bool = False,
    server: Server | None = None,
    lends_server: bool = False,
) -> tuple[FederationResult, FakeTrainer, Federation]:
    roles = federation(scenario)
    numbers = {client: number for number, client in enumerate(roles.client_ids)}
    rows = {client: [TokenRow((numbers[client], step), 1) for step in range(8)] for client in roles.client_ids}
    trainer = FakeTrainer({numbers[c]: moves(c, c in roles.compromised) for c in roles.client_ids})
    setting = Setting(
        scenario,
        TRAINING,
        roles,
        rows,
        SEED,
        owner="test",
        reveals_malicious=reveals_malicious,
        lends_server=lends_server,
    )
    result = run_federation(setting, trainer, torch.zeros(4), attack or Attack(), defense, cast(Server, server))
    return result, trainer, roles


def test_rounds_add_up_and_are_recorded() -> None:
    defense = Recording()
    result, trainer, roles = run(defense)
    assert result.adapter.tolist() == pytest.approx([3 * 3.4] * 4)
    assert [call["learning_rate"] for call in trainer.calls] == pytest.approx([1e-2, 5.5e-3, 1e-3])
    assert [call["start"][0].item() for call in trainer.calls] == pytest.approx([0, 3.4, 6.8])
    for index, record in enumerate(result.rounds):
        assert record.clients == roles.participants[index]
        assert [c for c, bad in zip(record.clients, record.malicious, strict=True) if bad] == sorted(roles.compromised)
        assert record.weights == pytest.approx((0.1,) * 10)
        assert record.norms == pytest.approx([18.0 if bad else 2.0 for bad in record.malicious])
        assert record.losses == tuple(float(i) for i in range(10))
        assert record.rejected == ()
        assert record.aggregate_seconds >= 0
    contexts = [context for _, context in defense.seen]
    assert [(c.index, c.rounds, c.declared_malicious) for c in contexts] == [(0, 3, 3), (1, 3, 3), (2, 3, 3)]
    assert contexts[1].broadcast.tolist() == pytest.approx([3.4] * 4)
    assert len({context.generator.initial_seed() for context in contexts}) == 3
    assert defense.seen[0][0].sample_counts.tolist() == [8.0] * 10


def test_batches_are_rows_without_replacement_and_repeat_with_the_seed() -> None:
    _, first, _ = run(Defense())
    _, again, _ = run(Defense())
    assert [call["batches"] for call in first.calls] == [call["batches"] for call in again.calls]
    for call in first.calls:
        for client in call["batches"]:
            drawn = [row for step in client for row in step]
            assert [len(step) for step in client] == [2, 2]
            assert len(set(drawn)) == 4
    assert first.calls[0]["batches"] != first.calls[1]["batches"]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_malicious_update_that_is_not_finite_is_refused_and_lowers_the_bound(bad: float) -> None:
    defense = Recording()
    result, _, roles = run(defense, Crafting([1.0, bad, 1.0, 1.0]))
    assert result.adapter.tolist() == pytest.approx([3.0] * 4)
    for record, (updates, context) in zip(result.rounds, defense.seen, strict=True):
        assert record.rejected == tuple(sorted(roles.compromised))
        assert set(updates.client_ids) == set(roles.client_ids) - roles.compromised
        assert updates.matrix.shape == (7, 4)
        assert context.declared_malicious == 0
        given = dict(zip(record.clients, record.weights or (), strict=True))
        assert given == pytest.approx({c: 0.0 if c in roles.compromised else 1 / 7 for c in roles.client_ids})


def test_only_a_rule_that_asks_for_it_gets_the_server() -> None:
    server = cast(Server, object())
    for lends_server in (True, False):
        defense = Recording()
        run(defense, server=server, lends_server=lends_server)
        contexts = [context for _, context in defense.seen]
        assert [context.tools for context in contexts] == [server if lends_server else None] * 3
    with pytest.raises(FedSafetyError, match=r"declare asks_server=True in @register"):
        _ = contexts[0].server


ALONE = [
    entry.info.id
    for entry in defenses.entries()
    if not entry.info.asks_server and Stage.PREPARE not in entry.info.stages
]
"""Rules that need no server in the federation; `fedsafety check` tries those that do on rounds of refused updates."""


@pytest.mark.parametrize("name", ALONE)
def test_no_rule_fails_however_many_updates_are_refused(name: str) -> None:
    for malicious in (3, 8, 9, 10):
        scenario = SCENARIO.model_copy(update={"malicious": malicious})
        result, _, _ = run(
            defenses.get(name).create(),
            Crafting([float("nan")] * 4),
            scenario=scenario,
            moves=lambda client, _: torch.randn(
                4, generator=torch.Generator().manual_seed(int(client[1:], 16))
            ).tolist(),
            reveals_malicious=True,
        )
        assert torch.isfinite(result.adapter).all()
        if malicious == 10:
            assert result.adapter.tolist() == [0.0] * 4
            rounds = 3 if defenses.get(name).target.uses_updates else 0
            assert [record.weights for record in result.rounds] == [(0.0,) * 10] * rounds


def test_nobody_is_trained_for_a_row_that_ignores_updates() -> None:
    result, trainer, _ = run(defenses.get("keep_initial").create())
    assert result.rounds == ()
    assert trainer.calls == []
    assert result.adapter.tolist() == [0.0] * 4


def test_an_honest_update_that_is_not_finite_means_that_training_broke() -> None:
    honest = next(c for c in federation().client_ids if c not in federation().compromised)
    with pytest.raises(FedSafetyError, match=f"honest client {honest} is not finite: training diverged; lower"):
        run(Defense(), moves=lambda client, _: [float("nan")] * 4 if client == honest else [1.0] * 4)


def test_craft_changes_the_malicious_rows_only() -> None:
    defense, attack = Recording(), Crafting([5.0, 6.0, 7.0, 8.0])
    _, _, roles = run(defense, attack)
    updates, _ = defense.seen[0]
    for client, row in zip(updates.client_ids, updates.matrix.tolist(), strict=True):
        assert row == ([5.0, 6.0, 7.0, 8.0] if client in roles.compromised else [1.0] * 4)
    own, view = attack.seen[1]
    assert set(own.client_ids) == roles.compromised
    torch.testing.assert_close(own.matrix, torch.full((3, 4), 9.0))
    assert (view.round_index, view.participants) == (1, 10)
    assert view.broadcast is not None
    assert torch.equal(view.broadcast, defense.seen[1][1].broadcast)


def test_craft_is_not_asked_where_no_attacker_takes_part_nor_in_the_twin() -> None:
    attack = Crafting([float("nan")] * 4)
    twin = find_suite("micro").scenario(SCENARIO.twin)
    result, _, _ = run(Defense(), attack, scenario=twin)
    assert attack.seen == []
    assert not any(bad for record in result.rounds for bad in record.malicious)
    sampled = find_suite("micro").scenario("paper_shape")
    _, _, roles = run(Defense(), attack, scenario=sampled)
    assert len(attack.seen) == sum(bool(roles.compromised & set(p)) for p in roles.participants)


def test_craft_of_a_wrong_shape_is_refused() -> None:
    with pytest.raises(FedSafetyError, match=r"crafted updates of shape \(3, 2\); 3 malicious clients send \(3, 4\)"):
        run(Defense(), Crafting([1.0, 2.0]))


def test_an_attack_cannot_reach_honest_updates_through_its_own() -> None:
    class Scribbling(Attack):
        def craft(self, own: Updates, view: AttackerView) -> Updates:
            own.matrix.fill_(100.0)
            return own

    defense = Recording()
    _, _, roles = run(defense, Scribbling())
    updates, _ = defense.seen[0]
    sums = {c: row.sum().item() for c, row in zip(updates.client_ids, updates.matrix, strict=True)}
    assert sums == {c: 400.0 if c in roles.compromised else 4.0 for c in roles.client_ids}


def test_the_truth_is_told_only_to_those_who_may_know_it() -> None:
    for told in (False, True):
        defense = Recording()
        _, _, roles = run(defense, reveals_malicious=told)
        assert [c.malicious_ids for _, c in defense.seen] == [roles.compromised if told else None] * 3
    result, _, _ = run(defenses.get("attackers_removed").create(), reveals_malicious=True)
    assert result.adapter.tolist() == pytest.approx([3.0] * 4)


def test_a_defense_prepares_once_before_the_first_round_and_its_time_counts() -> None:
    class Preparing(Recording):
        rounds_before: int | None = None

        def prepare(self, server: Server) -> None:
            assert self.rounds_before is None
            self.rounds_before = len(self.seen)

    defense = Preparing()
    result, _, _ = run(defense)
    assert defense.rounds_before == 0
    assert result.prepare_seconds > 0


def test_norms_are_of_what_was_sent_even_if_a_defense_scribbles_on_it() -> None:
    class Scribbling(Defense):
        def aggregate(self, updates: Updates, context: RoundContext) -> Aggregate:
            updates.matrix.zero_()
            return Aggregate(updates.matrix[0])

    result, _, _ = run(Scribbling())
    assert sorted(result.rounds[0].norms) == pytest.approx([2.0] * 7 + [18.0] * 3)


class Returning(Defense):
    def __init__(self, make: Callable[[Updates], Any]) -> None:
        self.make = make

    def aggregate(self, updates: Updates, context: RoundContext) -> Aggregate:
        return cast(Aggregate, self.make(updates))


def share(updates: Updates) -> Tensor:
    return torch.full((len(updates),), 1 / len(updates))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda u: u.matrix[0], "returned Tensor; return an Aggregate"),
        (lambda u: None, "returned NoneType; return an Aggregate"),
        (lambda u: Aggregate(u.matrix), r"an update of shape \(10, 4\); it must be \(4,\)"),
        (lambda u: Aggregate(u.matrix[0, :2]), r"an update of shape \(2,\); it must be \(4,\)"),
        (lambda u: Aggregate(u.matrix[0].numpy()), "update of type ndarray; return a torch tensor"),
        (lambda u: Aggregate(u.matrix[0] * float("nan")), "an update that is not finite; check for division"),
        (lambda u: Aggregate(u.matrix[0] / 0), "an update that is not finite"),
        (lambda u: Aggregate(u.matrix[0], share(u)[1:]), r"\(9,\) weights for 10 clients"),
        (lambda u: Aggregate(u.matrix[0], [0.1] * 10), "weights of type list; return a torch tensor"),
        (lambda u: Aggregate(u.matrix[0], -share(u)), "a negative or non-finite weight"),
        (lambda u: Aggregate(u.matrix[0], share(u) * float("nan")), "a negative or non-finite weight"),
        (lambda u: Aggregate(u.matrix[0], torch.ones(10)), "weights that sum to 10; divide them by their sum"),
    ],
)
def test_an_unusable_aggregate_is_refused(make: Callable[[Updates], Any], message: str) -> None:
    with pytest.raises(FedSafetyError, match=message):
        run(Returning(make))


@pytest.mark.parametrize("weights", [None, torch.zeros(10), torch.eye(10)[2]])
def test_usable_weights_are_recorded(weights: Tensor | None) -> None:
    result, _, _ = run(Returning(lambda u: Aggregate(u.matrix[0].double(), weights)))
    assert result.rounds[0].weights == (None if weights is None else tuple(weights.tolist()))
    assert result.adapter.dtype == torch.float32


def client_rows(
    world: TaskWorld, served: ServedModel, scenario: Scenario, attack: str = "", seed: int = SEED, **params: Any
) -> tuple[dict[str, list[TokenRow]], Federation, int, int]:
    roles = cast_roles(scenario, TRAINING, world.task_types, seed)
    used = attacks.get(attack or scenario.attack.id).create(params)
    made = make_client_rows(scenario, TRAINING, roles, world, used, Attacker(world, lambda: served, 4), served, seed)
    return made.rows, roles, made.malicious_rows, made.malicious_leaks


@pytest.mark.parametrize("name", ["aligned_start", "blended"])
def test_honest_clients_hold_the_same_rows_with_and_without_attack(
    world: TaskWorld, served: ServedModel, name: str
) -> None:
    suite = find_suite("micro")
    attacked, roles, malicious_rows, _ = client_rows(world, served, suite.scenario(name))
    clean, _, none, _ = client_rows(world, served, suite.scenario(suite.scenario(name).twin))
    assert {len(rows) for rows in (*attacked.values(), *clean.values())} == {TRAINING.rows_per_client}
    assert malicious_rows > 0
    assert none == 0
    for client in roles.client_ids:
        assert (attacked[client] == clean[client]) == (client not in roles.compromised)
    assert len({tuple(rows) for rows in clean.values()}) == 10
    other, _, _, _ = client_rows(world, served, suite.scenario(name), seed=12)
    assert set(other) != set(attacked)


def test_more_attackers_leave_the_others_rows_alone(world: TaskWorld, served: ServedModel) -> None:
    few, few_roles, _, _ = client_rows(world, served, SCENARIO)
    more = SCENARIO.model_copy(update={"malicious": 5})
    many, many_roles, _, _ = client_rows(world, served, more)
    assert few_roles.compromised < many_roles.compromised
    for client in few_roles.client_ids:
        same = client in few_roles.compromised or client not in many_roles.compromised
        assert (few[client] == many[client]) == same


def test_malicious_rows_are_distinct_and_their_leaks_are_counted(
    world: TaskWorld, served: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = world.unaligned(3, np.random.default_rng(0))
    leaking = [*pairs, replace(pairs[0], instruction="w30"), replace(pairs[0], instruction="w30")]
    monkeypatch.setattr(type(world), "unaligned", lambda self, count, rng: leaking)
    _, _, distinct, leaks = client_rows(world, served, SCENARIO)
    assert (distinct, leaks) == (4, 1)


def test_an_attack_may_not_change_the_number_of_rows(
    world: TaskWorld, served: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shorter(self: Attack, normal: list[Example], pool: list[Example], rng: np.random.Generator) -> list[Example]:
        return normal[1:]

    monkeypatch.setattr(attacks.get("unaligned_data").target, "poison", shorter)
    with pytest.raises(FedSafetyError, match="gave a client 7 rows, but every client holds 8; return as many rows"):
        client_rows(world, served, SCENARIO)


class Starting(Recording):
    """Starts from a given adapter."""

    def __init__(self, start: Any) -> None:
        super().__init__()
        self.start = start

    def prepare(self, server: Server) -> Any:
        return self.start


def test_the_federation_starts_from_what_prepare_returns() -> None:
    defense = Starting(torch.full((4,), 5.0))
    result, trainer, _ = run(defense)
    assert trainer.calls[0]["start"].tolist() == [5.0] * 4
    # Rules see differences from the start, so the updates are the same as from zero.
    usual = Recording()
    run(usual)
    assert torch.equal(defense.seen[0][0].matrix, usual.seen[0][0].matrix)
    assert defense.seen[0][1].broadcast.tolist() == [5.0] * 4
    assert result.adapter.tolist() == pytest.approx([5 + 3 * 3.4] * 4)
    assert defense.start.tolist() == [5.0] * 4


def test_a_reference_row_without_clients_serves_the_start_that_prepare_returns() -> None:
    defense = Starting(torch.full((4,), 5.0))
    defense.uses_updates = False
    assert run(defense)[0].adapter.tolist() == [5.0] * 4


def test_a_start_of_another_shape_stops_the_run_before_a_client_trains() -> None:
    with pytest.raises(
        FedSafetyError, match=r"prepare\(\) of 'test' returned a start of torch.float32 of shape \(3,\)"
    ):
        run(Starting(torch.zeros(3)))
