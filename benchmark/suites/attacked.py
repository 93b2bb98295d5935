"""A submitted attack in the place of a scenario's own: the base scenario with nothing but the attack replaced."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from attacks.base import attacks
from benchmark.errors import UsageError, unknown_name
from benchmark.suites.scenario import Scenario
from benchmark.suites.suite import Suite


class AttackScenario(Scenario):
    """A scenario that differs from another one by its attack only."""

    base: str
    """Id of the other scenario."""


def attacked_suite(
    suite: Suite, attack: str, bases: Sequence[str], params: Mapping[str, float | int | str | bool] | None = None
) -> Suite:
    """Return the suite with one more scenario for each base: the base with another attack, named by `attacked_id`.

    All other settings of a base stay the same, its twin included, and so do the keys of all other cells.

    Args:
        suite: The suite.
        attack: Id of a registered attack.
        bases: Ids of attacked scenarios of the suite's ranking.
        params: Parameters of the attack.

    Raises:
        UsageError: A name is unknown or taken, a base is not attacked, or the attack refuses its parameters.
    """
    attacks.get(attack)
    if not bases:
        raise UsageError(f"attack {attack!r} needs a scenario to take place in; name one with --base")
    added = [with_attack(suite, base, attack, dict(params or {})) for base in dict.fromkeys(bases)]
    try:
        # Pass instances, which pydantic keeps as they are, so that the added scenarios keep their base.
        return Suite.model_validate({**dict(suite), "scenarios": (*suite.scenarios, *added)})
    except ValidationError as error:
        problems = "; ".join(problem["msg"].removeprefix("Value error, ") for problem in error.errors())
        raise UsageError(f"suite {suite.id!r} cannot take the attack {attack!r}: {problems}") from error


def attacked_id(base: str, attack: str) -> str:
    """Return the id of the scenario ``base`` with another attack."""
    return f"{base}_{attack}"


def parse_params(texts: Sequence[str]) -> dict[str, float | int | str | bool]:
    """Return parameters written as ``name=value``; a value is a number, ``true``, ``false``, or else a text.

    Raises:
        UsageError: There is no ``=``, or a name occurs twice.
    """
    params: dict[str, float | int | str | bool] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip().isidentifier():
            raise UsageError(f"{text!r} sets no parameter; write it as name=value")
        if name.strip() in params:
            raise UsageError(f"parameter {name.strip()!r} is set twice; set it once")
        params[name.strip()] = _value(value.strip())
    return params


def with_attack(
    suite: Suite,
    base: str,
    attack: str,
    params: Mapping[str, float | int | str | bool],
    kind: type[AttackScenario] = AttackScenario,
    **changes: Any,
) -> AttackScenario:
    """Return a scenario of a suite with another attack.

    Args:
        suite: The suite.
        base: Id of an attacked scenario of the suite's ranking.
        attack: Id of a registered attack.
        params: Parameters of the attack.
        kind: Class of the new scenario.
        **changes: Further settings that differ; by default the id is :func:`attacked_id`.

    Raises:
        UsageError: A name is unknown, the base is not attacked, or the settings do not fit.
    """
    title = attacks.get(attack).info.title
    by_id = {scenario.id: scenario for scenario in suite.scenarios}
    if base not in by_id:
        raise unknown_name(f"scenario in suite {suite.id}", base, [name for name, s in by_id.items() if s.attacked])
    scenario = by_id[base]
    if not scenario.attacked:
        attacked = ", ".join(name for name, s in by_id.items() if s.attacked)
        raise UsageError(f"scenario {base!r} is an un-attacked twin; name an attacked one with --base: {attacked}")
    settings = ", ".join(f"{name}={value}" for name, value in sorted(params.items()))
    replaced = {
        "id": attacked_id(base, attack),
        # The version names the parameters, because the id does not.
        "version": f"{scenario.version}, {settings}" if settings else scenario.version,
        "title": f"{scenario.title}: {title}",
        "description": f"The scenario {base!r} with another attack in the place of its own.",
        "attack": {"id": attack, "params": params},
        "base": base,
    }
    try:
        return kind.model_validate({**dict(scenario), **replaced, **changes})
    except ValidationError as error:
        problems = "; ".join(problem["msg"].removeprefix("Value error, ") for problem in error.errors())
        raise UsageError(f"scenario {base!r} cannot take the attack {attack!r}: {problems}") from error


def _value(text: str) -> float | int | str | bool:
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, float | int | bool) else text
