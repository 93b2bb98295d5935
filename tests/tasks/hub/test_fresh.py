"""Fresh probes of a suite on real data: other prompts, the same sets and counts, none that a role uses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmark.errors import FedSafetyError, UsageError
from tasks.base import ProbeKind, task_worlds
from tasks.hub.fresh import HubFresh
from tasks.hub.settings import DatasetSource, HubData, ProbeSource

Write = Callable[..., DatasetSource]


def prompts(*texts: str) -> list[dict[str, str]]:
    return [{"instruction": text, "response": "x"} for text in texts]


@pytest.fixture
def data(source: Write) -> HubData:
    harm = source("harm", prompts("bad one", "bad two", "bad three"), format="prompts")
    sums = source("sums", prompts("one", "two"), format="pairs")
    fresh_harm = source("fresh", prompts("bad two!", "new a", "new b", "held", "new c", "new d"), format="prompts")
    return HubData(
        pools={"held": source("held", prompts("Held.", "other"))},
        probes=(
            ProbeSource(id="harm", kind=ProbeKind.HARMFUL, stratum="all", limit=2, prefix="Now: ", source=harm),
            ProbeSource(id="sums", kind=ProbeKind.UTILITY, stratum="sums", max_new_tokens=9, source=sums),
            ProbeSource(id="apart", kind=ProbeKind.HARMFUL, stratum="apart", scored=False, source=harm),
        ),
        fresh={"harm": fresh_harm, "sums": source("more", prompts("three", "four", "five"), format="pairs")},
    )


def test_sets_and_counts_are_those_of_the_suite_and_prompts_are_others(data: HubData) -> None:
    drawn = [HubFresh(data=data, seed=seed).probes() for seed in range(12)]
    for probes in drawn:
        assert [(p.id.split("/")[0], p.kind, p.stratum, p.max_new_tokens) for p in probes] == [
            ("harm", ProbeKind.HARMFUL, "all", 512),
            ("harm", ProbeKind.HARMFUL, "all", 512),
            ("sums", ProbeKind.UTILITY, "sums", 9),
            ("sums", ProbeKind.UTILITY, "sums", 9),
        ]
        assert [p.reference for p in probes[2:]] == ["x", "x"]
    asked = {probe.instruction for probes in drawn for probe in probes if probe.kind is ProbeKind.HARMFUL}
    assert asked == {"Now: new a", "Now: new b", "Now: new c", "Now: new d"}, "neither a probe's prompt nor a pool's"
    assert HubFresh(data=data, seed=3).probes() == drawn[3]


def test_development_prompts_are_not_fresh(data: HubData, source: Write) -> None:
    tried = source("tried", prompts("New A!", "unseen"), format="prompts")
    developed = data.model_copy(update={"development": {"tried": tried}})
    drawn = [HubFresh(data=developed, seed=seed).probes() for seed in range(12)]
    asked = {probe.instruction for probes in drawn for probe in probes if probe.kind is ProbeKind.HARMFUL}
    assert asked == {"Now: new b", "Now: new c", "Now: new d"}


def test_item_is_the_prompt(data: HubData) -> None:
    world = task_worlds.get("hub_fresh").create({"data": data, "seed": 1})
    assert isinstance(world, HubFresh)
    probes = world.probes()
    assert len({world.item_of(probe) for probe in probes}) == len(probes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"harm": None}, "the probe set 'harm' has no fresh source"),
        ({"hurt": "sums"}, "unknown probe set of fresh prompts 'hurt'.*did you mean 'harm'"),
    ],
)
def test_a_suite_names_a_fresh_source_for_each_scored_set(data: HubData, change: dict[str, Any], message: str) -> None:
    fresh = {**data.fresh, **{name: data.fresh.get(other or "") for name, other in change.items()}}
    changed = data.model_copy(update={"fresh": {name: value for name, value in fresh.items() if value}})
    with pytest.raises(UsageError, match=message):
        HubFresh(data=changed)


def test_too_few_unused_prompts_are_refused(data: HubData, source: Write, tmp_path: Path) -> None:
    few = data.fresh | {"harm": source("few", prompts("bad one", "new"), format="prompts")}
    world = HubFresh(data=data.model_copy(update={"fresh": few}))
    with pytest.raises(FedSafetyError, match=r"'harm' has 1 prompts that no other set holds, and the set has 2"):
        world.probes()


def test_a_negative_seed_is_refused(data: HubData) -> None:
    with pytest.raises((UsageError, ValueError), match="must not be negative"):
        HubFresh(data=data, seed=-1)


def test_references_whose_likelihood_is_measured_need_no_fresh_source(data: HubData) -> None:
    held = data.probes[1].model_copy(update={"id": "held", "kind": ProbeKind.PERPLEXITY})
    world = HubFresh(data=data.model_copy(update={"probes": (*data.probes, held)}))
    assert {probe.id.partition("/")[0] for probe in world.probes()} == {"harm", "sums"}
