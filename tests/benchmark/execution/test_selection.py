"""Selection of scenarios, pipelines and seeds in a suite."""

from __future__ import annotations

from typing import Any

import pytest

from benchmark.errors import UsageError
from benchmark.execution.plan import Plan
from benchmark.execution.selection import suite_pipelines
from benchmark.suites.suite import Suite, suites
from defenses.base import defenses
from tests.benchmark.execution.plans import changed, micro, plan, plan_of, with_scenarios

__all__ = ["micro", "plan"]


def test_the_whole_suite_has_every_scenario_defense_and_seed_once(micro: Suite) -> None:
    plan = plan_of(micro)
    assert len({c.cell_key for c in plan.cells}) == len(plan.cells)
    variants = sum(len(scenario.variants) for scenario in micro.scenarios)
    stages = len(suite_pipelines(micro)) + len(micro.pipelines)  # a composition of two is scored twice
    assert len(plan.cells) == len(micro.seeds) * (len(micro.scenarios) * stages + variants)
    assert {c.seed for c in plan.cells} == set(micro.seeds)


def test_all_means_ranked_then_compositions_then_reference_rows_without_variants(micro: Suite) -> None:
    names = suite_pipelines(micro)
    middle = names.index("krum+posthoc_self")
    assert all(defenses.get(name).info.ranked for name in names[:middle])
    assert sorted(names[middle + 1 :]) == ["attackers_removed", "keep_initial", "refuse_all"]
    assert not any(defenses.get(name).info.variant_of for name in names if "+" not in name)
    assert suite_pipelines(changed(micro, defenses=("krum", "fedavg"))) == ["krum", "fedavg", "krum+posthoc_self"]


def test_variants_run_only_where_a_scenario_asks(micro: Suite, plan: Plan) -> None:
    asked = {c.scenario.id for c in plan.cells if c.pipeline.name == "krum_one_neighbour"}
    assert asked == {"paper_shape", "clean_paper_shape"}
    chosen = plan_of(micro, seeds=[11], scenarios=["paper_shape"], pipelines=["fedavg"])
    assert {c.pipeline.name for c in chosen.cells} == {"fedavg"}
    with pytest.raises(UsageError, match="lists 'median' as a variant, but it is a defense of its own; remove it"):
        plan_of(with_scenarios(micro, ("paper_shape", "clean_paper_shape"), variants=("median",)))


def test_a_chosen_scenario_brings_its_twin_along(micro: Suite) -> None:
    plan = plan_of(micro, scenarios=["unaligned", "generated"], pipelines=["fedavg", "fedavg"], seeds=[12, 12])
    assert [(c.scenario.id, c.stage.name, c.seed) for c in plan.cells] == [
        ("unaligned", "fedavg", 12),
        ("generated", "fedavg", 12),
        ("clean_raw", "fedavg", 12),
    ]


def test_a_composition_alone_still_makes_every_stage(micro: Suite) -> None:
    plan = plan_of(micro, scenarios=["clean"], pipelines=["fedavg+posthoc_self", "posthoc_public"], seeds=[11])
    assert [c.stage.name for c in plan.cells] == ["fedavg", "fedavg+posthoc_self", "posthoc_public"]
    assert len(plan.jobs) == 1
    assert list(plan.jobs[0].pipelines.values()) == ["fedavg", "fedavg+posthoc_self", "posthoc_public"]


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"scenarios": ["algned_start"]}, "unknown scenario in suite micro 'algned_start'; did you mean"),
        ({"pipelines": ["medain"]}, "unknown defense 'medain'; did you mean 'median'"),
    ],
)
def test_unknown_names_are_refused(micro: Suite, choice: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        plan_of(micro, **choice)


@pytest.fixture
def uneven(micro: Suite) -> Suite:
    """Micro with two seeds of its own in ``blended`` and its twin, and with two defenses in the twin."""
    seeded = with_scenarios(micro, ("blended", "clean_blended"), seeds=(12, 11))
    return with_scenarios(seeded, ("clean_blended",), defenses=("krum", "fedavg"))


def test_a_scenario_runs_on_its_own_seeds_with_its_own_defenses(micro: Suite, uneven: Suite) -> None:
    whole, plan = plan_of(micro), plan_of(uneven)
    assert {c.seed for c in plan.cells if c.scenario.id == "blended"} == {11, 12}
    assert {(c.stage.name, c.seed) for c in plan.cells if c.scenario.id == "clean_blended"} == {
        (name, seed) for name in ("krum", "fedavg") for seed in (11, 12)
    }
    rest = [c.cell_key for c in plan.cells if c.scenario.id not in ("blended", "clean_blended")]
    assert {c.cell_key for c in plan.cells} < {c.cell_key for c in whole.cells}, "keys do not depend on the extent"
    others = {c.cell_key for c in whole.cells if c.scenario.id not in ("blended", "clean_blended")}
    assert set(rest) == others


def test_without_a_chosen_scenario_choices_select_among_its_own(uneven: Suite) -> None:
    plan = plan_of(uneven, pipelines=["median", "krum"], seeds=[11, 14])
    found = {(c.scenario.id, c.stage.name, c.seed) for c in plan.cells}
    assert {each for each in found if each[0] == "blended"} == {("blended", "median", 11), ("blended", "krum", 11)}
    assert {each for each in found if each[0] == "clean_blended"} == {("clean_blended", "krum", 11)}
    assert ("aligned_start", "median", 14) in found
    elsewhere = plan_of(uneven, pipelines=["median"], seeds=[14])
    assert {c.scenario.id for c in elsewhere.cells}.isdisjoint({"blended", "clean_blended"})


def test_choices_replace_the_own_of_a_chosen_scenario(uneven: Suite) -> None:
    plan = plan_of(uneven, scenarios=["blended"], pipelines=["median"], seeds=[14])
    assert [(c.scenario.id, c.stage.name, c.seed) for c in plan.cells] == [
        ("blended", "median", 14),
        ("clean_blended", "median", 14),
    ]
    named = plan_of(uneven, scenarios=["blended"])
    assert {c.seed for c in named.cells} == {11, 12}
    assert {c.stage.name for c in named.cells if c.scenario.id == "clean_blended"} == {"krum", "fedavg"}
    assert len({c.stage.name for c in named.cells if c.scenario.id == "blended"}) > 2


def test_an_unscored_defense_is_left_out_of_all_and_runs_where_it_is_named(micro: Suite) -> None:
    suite = micro.model_copy(update={"unscored": {"dnc": "Its rows are not made yet."}})
    assert {*suite_pipelines(micro)} - {*suite_pipelines(suite)} == {"dnc"}
    plan = plan_of(suite, scenarios=["clean"], pipelines=["dnc"], seeds=[11])
    assert [cell.stage.name for cell in plan.cells] == ["dnc"]


@pytest.mark.parametrize("suite", suites.entries(), ids=lambda suite: suite.id)
def test_what_a_suite_leaves_out_is_registered_and_has_a_sentence(suite: Suite) -> None:
    for name, reason in suite.unscored.items():
        assert name in defenses.names()
        assert reason[0].isupper()
        assert reason.endswith(".")
