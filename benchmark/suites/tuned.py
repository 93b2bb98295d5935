"""Scenarios with the attack that a search found for one defense, in the place of a scenario's own attack."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from benchmark.errors import UsageError
from benchmark.suites.attacked import AttackScenario, with_attack
from benchmark.suites.suite import Suite


class TunedScenario(AttackScenario):
    """A scenario that differs from another one by an attack that was tuned against one defense."""

    tuned_for: str
    """The defense, or pipeline; no other runs here."""


@dataclass(frozen=True)
class Tuned:
    """An attack with parameters against one defense in one scenario.

    Attributes:
        base: Id of the scenario whose attack is replaced.
        defense: Defense, or pipeline.
        attack: Registry id.
        params: Parameters of the attack.
    """

    base: str
    defense: str
    attack: str
    params: Mapping[str, float | int | str | bool] = field(default_factory=dict)


def tuned_id(base: str, defense: str) -> str:
    """Return the id of the scenario ``base`` with the attack that was tuned against a defense.

    For example, ``aligned_start_tuned_krum_posthoc_self`` for the pipeline ``krum+posthoc_self``.
    """
    return f"{base}_tuned_{re.sub('[^a-z0-9]+', '_', defense.lower()).strip('_')}"


def tuned_suite(suite: Suite, choices: Sequence[Tuned]) -> Suite:
    """Return the suite with one more scenario for each choice, named by :func:`tuned_id`.

    All other settings of a base stay the same, its twin and its seeds included, and so do the keys of all other cells.

    Raises:
        UsageError: A name is unknown or taken, a base is not attacked, or an attack refuses its parameters.
    """
    known = {scenario.id for scenario in suite.every_scenario}
    added: dict[str, TunedScenario] = {}
    for choice in choices:
        name = tuned_id(choice.base, choice.defense)
        if name in known or name in added:
            raise UsageError(
                f"suite {suite.id!r} has a scenario {name!r} already, so the attack against {choice.defense!r} in "
                f"{choice.base!r} cannot have this id; rename one of them"
            )
        scenario = with_attack(
            suite,
            choice.base,
            choice.attack,
            dict(choice.params),
            kind=TunedScenario,
            id=name,
            description=f"The scenario {choice.base!r} with an attack that a search tuned against {choice.defense!r}.",
            tuned_for=choice.defense,
            # The one defense need not be FedAvg, whose rows of the base scenario and its twin serve all comparisons.
            defenses=(),
            variants=(),
        )
        assert isinstance(scenario, TunedScenario)
        added[name] = scenario
    # The settings of the bases were checked with the suite.
    return suite.model_copy(update={"scenarios": (*suite.scenarios, *added.values())})
