"""Catalog rows: titles, descriptions and sources at the time of a run, so that a page needs rows only."""

from __future__ import annotations

import json
from typing import Any

from attacks.base import attacks
from benchmark.execution.plan import Plan
from benchmark.judges.base import JudgeInfo, judges
from benchmark.keys import content_key
from benchmark.records.schemas import CATALOG, NEEDS_ALIGNMENT
from benchmark.records.store import Store


def write_catalog(plan: Plan, store: Store) -> None:
    """Write the catalog of everything a plan names, unless the store has an equal catalog."""
    rows = catalog_rows(plan)
    key = content_key(rows)
    if not store.has("catalog", key):
        store.write("catalog", key, rows)


def catalog_rows(plan: Plan) -> list[dict[str, Any]]:
    """Return one row per suite, scenario, attack, defense and judge, in the order the suite lists them."""
    suite = plan.suite
    rows = [
        _row(
            "suite",
            suite.id,
            0,
            suite.title,
            suite.description,
            settings=suite.model_dump(mode="json", exclude={"scenarios"}),
        )
    ]
    for i, scenario in enumerate(suite.every_scenario):
        settings = scenario.model_dump(mode="json", exclude={"title", "description"})
        rows.append(_row("scenario", scenario.id, i, scenario.title, scenario.description, settings=settings))
    for i, name in enumerate(sorted({scenario.attack.id for scenario in suite.every_scenario})):
        attack = attacks.get(name)
        rows.append(
            _row(
                "attack",
                name,
                i,
                attack.info.title,
                attack.info.description,
                paper=attack.info.paper,
                knowledge=attack.info.knowledge,
                source_digest=attack.source_digest,
            )
        )
    # A composition's members appear on their own; order of first use is the order of the plan.
    members = {entry.info.id: entry for cell in plan.cells for entry in cell.pipeline.entries}
    for i, (name, defense) in enumerate(members.items()):
        rows.append(
            _row(
                "defense",
                name,
                i,
                defense.info.title,
                defense.info.description,
                paper=defense.info.paper,
                stages=",".join(defense.info.stages),
                knowledge=defense.info.knowledge.value,
                resources=defense.info.resources,
                ranked=defense.info.ranked,
                source_digest=defense.source_digest,
                **({"settings": {NEEDS_ALIGNMENT: True}} if defense.info.needs_alignment else {}),
            )
        )
    for i, name in enumerate(suite.judges):
        judge = judges.get(name)
        rows.append(
            _row(
                "judge",
                name,
                i,
                judge.info.title,
                judge.info.description,
                paper=judge.info.paper,
                source_digest=judge.source_digest,
                **_rating(judge.info),
            )
        )
    return rows


def _rating(info: JudgeInfo) -> dict[str, Any]:
    """Return the settings of a judge that rates on a scale; others have none."""
    return {"settings": {"scale": info.scale}} if info.scale else {}


def _row(kind: str, name: str, position: int, title: str, description: str, **rest: Any) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(CATALOG.names, "")
    settings = rest.pop("settings", None)
    row |= {"kind": kind, "id": name, "position": position, "title": title, "description": description, "ranked": True}
    row |= {"settings": json.dumps(settings, sort_keys=True) if settings is not None else ""}
    return row | rest
