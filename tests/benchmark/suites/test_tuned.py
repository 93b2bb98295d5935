"""Scenarios with tuned attacks: the base with another attack, for one defense."""

from __future__ import annotations

from typing import Any

import pytest

from benchmark.errors import UsageError
from benchmark.execution.cell_keys import CellKeys
from benchmark.execution.worlds import open_world
from benchmark.methods.pipeline import parse_pipeline
from benchmark.suites.suite import Suite
from benchmark.suites.tuned import Tuned, TunedScenario, tuned_id, tuned_suite


def test_a_tuned_scenario_differs_from_its_base_by_the_attack(micro: Suite) -> None:
    suite = tuned_suite(micro, [Tuned("blended", "krum+posthoc_self", "boosted_data", {"boost": 2.5})])
    scenario = suite.scenario("blended_tuned_krum_posthoc_self")
    assert isinstance(scenario, TunedScenario)
    assert (scenario.base, scenario.tuned_for, scenario.version) == ("blended", "krum+posthoc_self", "1, boost=2.5")
    base = micro.scenario("blended").model_dump()
    changed = {"id", "version", "title", "description", "attack", "base", "tuned_for"}
    assert {name: value for name, value in scenario.model_dump().items() if name not in changed} == {
        name: value for name, value in base.items() if name not in changed
    }
    assert suite.scenarios[:-1] == micro.scenarios


def test_the_training_under_the_own_attack_is_that_of_the_base(micro: Suite) -> None:
    suite = tuned_suite(micro, [Tuned("reminder_aware", "krum", "unaligned_data", {"reminder_share": 0.5})])
    keys = CellKeys(suite, open_world(suite), "transformers")
    pipeline = parse_pipeline("krum")
    trainings = {
        keys.training(suite.scenario(name), pipeline, 11) for name in ("reminder_aware", "reminder_aware_tuned_krum")
    }
    assert len(trainings) == 1


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ([Tuned("clean", "krum", "gap")], "scenario 'clean' is an un-attacked twin"),
        ([Tuned("nowhere", "krum", "gap")], "unknown scenario in suite micro 'nowhere'"),
        ([Tuned("aligned_start", "krum", "storm")], "unknown attack 'storm'"),
        (
            [Tuned("aligned_start", "a+b", "gap"), Tuned("aligned_start", "a_b", "gap")],
            "has a scenario 'aligned_start_tuned_a_b' already",
        ),
    ],
    ids=["twin", "scenario", "attack", "id"],
)
def test_a_choice_that_cannot_be_is_refused(micro: Suite, choices: list[Tuned], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        tuned_suite(micro, choices)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("defense", "name"), [("byzfl:TrMean(f=3)", "s_tuned_byzfl_trmean_f_3"), ("krum", "s_tuned_krum")]
)
def test_the_id_is_one_that_a_scenario_may_have(defense: str, name: Any) -> None:
    assert tuned_id("s", defense) == name
