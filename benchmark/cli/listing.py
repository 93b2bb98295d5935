"""The command ``fedsafety list``: metadata of everything that is registered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from benchmark.errors import FedSafetyError, unknown_name
from benchmark.registry import Trait
from benchmark.screen import Fitted, Screen, printable

KINDS = ("attacks", "defenses", "scenarios", "axes", "suites", "judges", "tasks")

_COLUMNS = {
    "attacks": ("title", "stage", "knowledge"),
    "defenses": ("title", "stages", "knowledge", "ranked"),
    "scenarios": ("title", "attack", "shape"),
    "axes": ("title", "values", "seeds"),
    "suites": ("title", "version", "scenarios", "axes", "seeds"),
    "judges": ("title", "judges"),
    "tasks": ("title", "revision"),
}


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("list")(list_command)


def list_command(
    kind: Annotated[str, typer.Argument(help=f"One of {', '.join(KINDS)}; leave out for all.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON with all metadata.")] = False,
) -> None:
    """List what is registered: attacks, defenses, scenarios, sensitivity axes, suites, judges, tasks."""
    if kind and kind not in KINDS:
        raise unknown_name("kind", kind, KINDS)
    broken: list[str] = []
    content = {name: _listing(name, broken) for name in ([kind] if kind else KINDS)}
    # A console of this call: its width is the terminal's at this moment.
    console = Screen()
    if as_json:
        console.say_json(content)
    for name, entries in () if as_json else content.items():
        table = Table(title=name.capitalize(), title_justify="left", title_style="bold", expand=False)
        table.add_column("id")
        for column in _COLUMNS[name]:
            table.add_column(column.replace("_", " "))
        for entry in entries:
            table.add_row(*(printable(str(entry[column])) for column in ("id", *_COLUMNS[name])))
        console.print(Fitted(table))
    for entry in content[kind] if kind and not as_json else ():
        console.say(f"\n{entry['id']}", "bold")
        for key, value in entry.items():
            if key != "id" and value not in ("", None):
                console.print(Text.assemble((f"  {key.replace('_', ' ')}: ", "dim"), printable(str(value))))
    if broken:
        raise FedSafetyError("; ".join(broken))


def _listing(kind: str, broken: list[str]) -> list[dict[str, Any]]:
    """Return the metadata of all entries of a kind; append the errors of unloadable entries to ``broken``."""
    if kind == "suites":
        return _suites()
    if kind == "axes":
        return _axes()
    if kind == "scenarios":
        return _scenarios()
    return _registered(_registry(kind), broken)


def _suites() -> list[dict[str, Any]]:
    from benchmark.suites.suite import suites

    return [
        {
            "id": s.id,
            "version": s.version,
            "title": s.title,
            "scenarios": len(s.scenarios),
            "axes": len(s.sensitivity.axes) if s.sensitivity else 0,
            "seeds": ", ".join(map(str, s.seeds)),
            "judges": ", ".join(s.judges),
            "tiers": ", ".join(f"{s.id}_{tier}" for tier in s.tiers),
            "description": s.description,
        }
        for s in suites.entries()
    ]


def _axes() -> list[dict[str, Any]]:
    from benchmark.suites.suite import suites

    return [
        {
            "id": axis.id,
            "title": axis.title,
            "suite": s.id,
            "base": axis.base,
            "unit": axis.unit,
            "values": ", ".join(str(point.value) for point in axis.points),
            "scenarios": ", ".join(point.name for point in axis.points),
            "defenses": ", ".join(
                dict.fromkeys(name for point in axis.points for name in section.defenses_of(axis, point))
            ),
            "seeds": ", ".join(map(str, section.seeds_of(axis))),
            "description": axis.description,
        }
        for s in suites.entries()
        if (section := s.sensitivity)
        for axis in section.axes
    ]


def _scenarios() -> list[dict[str, Any]]:
    from benchmark.suites.suite import scenarios

    return [
        {
            "id": s.id,
            "title": s.title,
            "start": s.start,
            "attack": s.attack.id,
            "shape": f"{s.malicious} malicious of {s.clients}, {s.participants} a round, f={s.declared_malicious}",
            "twin": s.twin if s.attacked else "is one",
            "seeds": ", ".join(map(str, s.seeds)),
            "defenses": ", ".join(s.defenses),
            "description": s.description,
        }
        for s in scenarios.entries()
    ]


def _registered(registry: Any, broken: list[str]) -> list[dict[str, Any]]:
    """Return the metadata of the entries of a registry."""
    entries, unscored = [], _unscored() if registry.kind == "defense" else {}
    for name in registry.names():
        try:
            entry = registry.get(name)
        except FedSafetyError as error:
            broken.append(str(error))
            continue
        info = {key: _shown(value) for key, value in entry.info.model_dump(mode="json").items()}
        derived = _attack_terms(entry) if registry.kind == "attack" else {}
        if registry.kind == "defense":
            derived = {"unscored": unscored.get(name, "")}
        entries.append(info | derived | {"origin": entry.origin})
    return entries


def _unscored() -> dict[str, str]:
    """Return the suites that leave out a defense, with their reasons, by the defense's id."""
    from benchmark.suites.suite import suites

    reasons: dict[str, list[str]] = {}
    for suite in suites.entries():
        for name, reason in suite.unscored.items():
            reasons.setdefault(name, []).append(f"{suite.id}: {reason}")
    return {name: "; ".join(found) for name, found in reasons.items()}


def _attack_terms(entry: Any) -> dict[str, str]:
    """Return stage, resources and cost of an attack in plain words, from the hooks that it fills and its traits.

    The metadata of an attack name neither of the three, because the hooks decide them.
    """
    from attacks.base import Attack

    pool, poison, craft = (
        getattr(entry.target, hook) is not getattr(Attack, hook) for hook in ("pool", "poison", "craft")
    )
    generates = Trait.GENERATES in entry.info.traits
    stage = {"data": pool or poison, "update": craft}
    resources = {
        "own rows": poison,
        "a pool of rows for all malicious clients": pool,
        "a model that generates text": generates,
        "own updates": craft,
    }
    cost = {
        "rows are chosen once a run": (pool or poison) and not generates,
        "a model generates rows once a run": generates,
        "what is sent is computed each round": craft,
    }
    return {
        "stage": _listed(stage, "none"),
        "resources": _listed(resources, "none"),
        "cost": f"ordinary training; {_listed(cost, 'nothing else')}",
    }


def _listed(parts: Mapping[str, bool], otherwise: str) -> str:
    return ", ".join(text for text, holds in parts.items() if holds) or otherwise


def _registry(kind: str) -> Any:
    if kind == "attacks":
        from attacks.base import attacks

        return attacks
    if kind == "defenses":
        from defenses.base import defenses

        return defenses
    if kind == "judges":
        from benchmark.judges.base import judges

        return judges
    from tasks.base import task_worlds

    return task_worlds


def _shown(value: Any) -> Any:
    return ", ".join(map(str, value)) if isinstance(value, list) else value
