"""Rules that are the same function in a shape: equality is searched on random updates, and must be declared."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from benchmark.errors import NotApplicableError
from benchmark.suites.suite import scenarios
from benchmark.updates import AdapterLayout, RoundContext, Updates
from defenses.base import Defense, Knowledge, defenses

DIMENSION = 60
SAMPLED = 10_000
"""Coordinates that the rule ``dnc`` samples."""
ROUNDS = 4


def _shapes() -> list[tuple[int, int]]:
    """Return every (participants, declared malicious) of a scenario or sensitivity point of a bundled suite."""
    return sorted({(scenario.participants, scenario.declared_malicious) for scenario in scenarios.entries()})


def _rules(shape: tuple[int, int]) -> dict[str, Defense]:
    """Return the rules that are defined in a shape and need vectors alone, without the truth and without a server."""
    rules = {}
    for entry in defenses.entries():
        rule = entry.create()
        if entry.info.knowledge is Knowledge.TRUTH or entry.info.asks_server or not rule.uses_updates:
            continue
        if type(rule).aggregate is Defense.aggregate and entry.info.id != "fedavg":
            continue
        try:
            rule.check_shape(*shape)
        except NotApplicableError:
            continue
        rules[entry.info.id] = rule
    return rules


def _runs(participants: int) -> Iterator[list[Tensor]]:
    """Yield runs of :data:`ROUNDS` matrices ``[participants, d]``: alike, with outliers, clustered, heavy-tailed."""
    generator = torch.Generator().manual_seed(participants)

    def noise() -> Tensor:
        return torch.randn(participants, DIMENSION, generator=generator)

    few = max(1, participants // 4)
    # One of very many coordinates differs: rules that sample coordinates may miss it.
    wide = torch.zeros(participants, 2 * SAMPLED)
    wide[:, 0] = torch.randn(participants, generator=generator)
    yield [wide + 1e-3 * torch.randn(wide.shape, generator=generator) for _ in range(ROUNDS)]
    for _ in range(2):
        # All angles between clients, other ones in each round: rules with a memory differ from those without.
        yield [torch.randn(participants, 2, generator=generator) @ noise()[:2] for _ in range(ROUNDS)]
        yield [noise() for _ in range(ROUNDS)]
        yield [torch.cat([noise()[few:], 30 * noise()[:few]]) for _ in range(ROUNDS)]
        center = torch.randn(DIMENSION, generator=generator)
        yield [torch.cat([center + 0.1 * noise()[few:], 0.1 * noise()[:few] - center]) for _ in range(ROUNDS)]
        yield [noise() / torch.rand(participants, 1, generator=generator) ** 2 for _ in range(ROUNDS)]


def _results(name: str, run: list[Tensor], malicious: int) -> Tensor:
    """Return the aggregates of a run ``[rounds, d]`` by a new instance of a rule; all clients report equal counts."""
    rule = defenses.get(name).create()
    generator = torch.Generator().manual_seed(7)
    layout = AdapterLayout(names=("layer.lora_A",), shapes=((1, run[0].shape[1]),))
    aggregates = []
    for index, matrix in enumerate(run):
        participants = len(matrix)
        ids = tuple(f"client_{number:02d}" for number in range(participants))
        updates = Updates(matrix, ids, torch.full((participants,), 5.0, dtype=torch.float64), layout)
        context = RoundContext(index, ROUNDS, malicious, torch.zeros(matrix.shape[1]), generator)
        aggregates.append(rule.aggregate(updates, context).update)
    return torch.stack(aggregates)


def _classes(names: list[str], pairs: set[tuple[str, str]]) -> set[frozenset[str]]:
    """Return the classes of names that ``pairs`` connect."""
    classes = [{name} for name in names]
    for first, second in pairs:
        joined = [one for one in classes if first in one or second in one]
        classes = [one for one in classes if one not in joined] + [set().union(*joined)]
    return {frozenset(one) for one in classes}


@pytest.mark.parametrize("shape", _shapes(), ids=lambda shape: f"n{shape[0]}_f{shape[1]}")
def test_rules_that_are_always_equal_declare_it_and_no_others_do(shape: tuple[int, int]) -> None:
    rules = _rules(shape)
    runs = list(_runs(shape[0]))
    results = {name: [_results(name, run, shape[1]) for run in runs] for name in rules}
    scales = [max(one.abs().max() for one in of_run) for of_run in zip(*results.values(), strict=True)]
    equal = {
        (first, second)
        for first in rules
        for second in rules
        if first < second
        and all(
            torch.allclose(ours, theirs, rtol=0, atol=1e-4 * float(scale))
            for ours, theirs, scale in zip(results[first], results[second], scales, strict=True)
        )
    }
    declared = {(name, same) for name, rule in rules.items() if (same := rule.degenerate_as(*shape))}
    assert all(same in rules for _, same in declared), f"{declared} names a rule that is not defined in {shape}"
    assert _classes(list(rules), equal) == _classes(list(rules), declared)
