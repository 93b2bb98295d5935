"""Plans of the micro suite and of suites that differ from it in one place."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from benchmark.execution.plan import CellPlan, Plan, make_plan
from benchmark.suites.suite import Suite, find_suite


def plan_of(suite: Suite, **choice: Any) -> Plan:
    return make_plan(suite, "transformers", **choice)


def cell(plan: Plan, scenario: str, pipeline: str, stage: str = "", seed: int = 11) -> CellPlan:
    found = [
        c
        for c in plan.cells
        if (c.scenario.id, c.pipeline.name, c.stage.name, c.seed) == (scenario, pipeline, stage or pipeline, seed)
    ]
    assert len(found) == 1, (scenario, pipeline, stage, seed)
    return found[0]


def changed(suite: Suite, **changes: Any) -> Suite:
    return Suite.model_validate(suite.model_dump() | changes)


def with_scenarios(suite: Suite, names: tuple[str, ...], **changes: Any) -> Suite:
    content = copy.deepcopy(suite.model_dump())
    for scenario in content["scenarios"]:
        scenario.update(changes if scenario["id"] in names else {})
    return Suite.model_validate(content)


def with_scenario(suite: Suite, name: str, **changes: Any) -> Suite:
    return with_scenarios(suite, (name,), **changes)


@pytest.fixture
def whole(micro: Suite) -> Suite:
    """The suite with its sensitivity sets."""
    return Suite.model_validate(micro.model_dump() | {"sensitivity": find_suite("micro").sensitivity})


@pytest.fixture
def micro(micro: Suite) -> Suite:
    """The suite without its sensitivity sets."""
    return micro.model_copy(update={"sensitivity": None})


@pytest.fixture
def plan(micro: Suite) -> Plan:
    return plan_of(micro, seeds=[11])
