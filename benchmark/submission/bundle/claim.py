"""Claim of a submission: the method's cells in a folder of runs, and the plan of these cells."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from benchmark import PROTOCOL_VERSION
from benchmark.errors import UsageError
from benchmark.execution.catalog import catalog_rows
from benchmark.execution.plan import Plan, make_plan
from benchmark.methods.kinds import Params
from benchmark.methods.source import MethodSource
from benchmark.records.schemas import STATUS_DONE, STATUS_FAILED, TABLES
from benchmark.records.store import Store
from benchmark.records.tuned import tuned_scenarios
from benchmark.records.withheld import extents_in, without_texts
from benchmark.suites.suite import Suite

GENERATORS = ("vllm", "transformers")
"""Kinds of engines that can have answered the probes."""
MOST_NOTICES, LONGEST_NOTICE = 100, 1000
"""Most notices of a claim, and most characters of a notice."""
_NAME = ("scenario", "defense", "stage", "seed")


@dataclass(frozen=True)
class Claim:
    """Cells that a submission claims, with all rows of these cells.

    Attributes:
        plan: Plan of the claimed cells only, made by this release and the present source of the method.
        params: Parameters of a submitted attack.
        tables: Rows of the claimed cells, by table, with digests in place of the texts that the suite does not publish.
        notices: Sentences about failed cells and about scenarios and seeds that the claim lacks.
    """

    plan: Plan
    params: Params
    tables: Mapping[str, pa.Table]
    notices: tuple[str, ...]


def collect(submission: MethodSource, suite: Suite, store: Store) -> Claim:
    """Return the claim of a registered method from the rows in a store.

    Raises:
        UsageError: The store holds no finished row of the method, rows of another version of the method, or no
            verdicts of a finished cell.
    """
    catalog = store.read_all("catalog").to_pylist()
    tuned = tuned_scenarios(catalog)
    stored = [
        row
        for row in store.read_all("cells").to_pylist()
        if row["suite"] == suite.id and submission.kind.owns(row, submission.id) and row["scenario"] not in tuned
    ]
    rows = [row for row in stored if row["seed"] in seeds_of(suite)]
    foreign_seeds = sorted({row["seed"] for row in stored} - {row["seed"] for row in rows})
    command = submission.kind.command(submission.id, suite, (row["scenario"] for row in stored))
    if foreign_seeds and not rows:
        raise UsageError(
            f"all rows of {submission.id!r} in {store.root} have seeds that suite {suite.id!r} does not have "
            f"({', '.join(map(str, foreign_seeds[:10]))}); run `{command}`"
        )
    if not rows:
        raise UsageError(
            f"{store.root} holds no rows of {submission.kind} {submission.id!r} in suite {suite.id!r}; run "
            f"`{command}`, or name another folder with --runs"
        )
    protocols = {row["protocol_version"] for row in rows}
    if PROTOCOL_VERSION not in protocols:
        raise UsageError(
            f"all rows of {submission.id!r} in {store.root} are of protocol {', '.join(sorted(protocols))}, and this "
            f"release submits protocol {PROTOCOL_VERSION}; run `{command}` again"
        )
    choices = [(kind, params) for kind in GENERATORS for params in submission.kind.params(submission.id, catalog)]
    plans = [(plan_of(submission, suite, rows, kind, params), params) for kind, params in choices]
    plan, params = max(plans, key=lambda candidate: _count(candidate[0], rows))
    cells_by_key = {cell.cell_key: cell for cell in plan.cells}
    rows_by_key = {row["cell_key"]: row for row in rows if row["cell_key"] in cells_by_key}
    current = {tuple(row[name] for name in _NAME) for row in rows_by_key.values()}
    stale = sorted({tuple(row[name] for name in _NAME) for row in rows} - current, key=str)
    if stale:
        raise UsageError(
            f"rows of {len(stale)} cells, such as {' / '.join(map(str, stale[0]))}, come from another version of "
            f"{submission.id!r}, or from another protocol, engine or version of the suite; run `{command}` again, "
            f"which repeats only these cells"
        )
    finished = [cells_by_key[key] for key, row in rows_by_key.items() if row["status"] == STATUS_DONE]
    if not finished:
        raise UsageError(f"no cell of {submission.id!r} is finished; run `{command}` and mend the reported errors")
    plan = replace(plan, cells=tuple(cell for cell in plan.cells if cell.cell_key in rows_by_key))
    tables = {
        "cells": pa.Table.from_pylist([rows_by_key[cell.cell_key] for cell in plan.cells], schema=TABLES["cells"]),
        "rounds": _rows(store, "rounds", {cell.training_key for cell in finished}, command),
        "responses": _rows(store, "responses", {cell.response_key for cell in finished}, command),
        "verdicts": _verdicts(store, suite, {cell.response_key for cell in finished}),
        "probes": _rows(store, "probes", {plan.probe_set}, command),
        "catalog": own_catalog(submission, plan),
    }
    if measured := {cell.response_key for cell in finished if cell.likelihoods}:
        tables["likelihoods"] = _rows(store, "likelihoods", measured, command)
    failures = [row for row in rows_by_key.values() if row["status"] == STATUS_FAILED]
    notices = [*_foreign_seeds(foreign_seeds), *_failures(failures), *_gaps(submission, plan, suite)]
    extents = extents_in(tables["probes"])
    tables = {name: without_texts(name, rows, extents) for name, rows in tables.items()}
    return Claim(plan, params, tables, tuple(notice[:LONGEST_NOTICE] for notice in notices[:MOST_NOTICES]))


def seeds_of(suite: Suite) -> frozenset[int]:
    """Return the run seeds of a suite's scenarios and sensitivity points. Only rows of these seeds enter a score."""
    return frozenset(suite.seeds) | {seed for scenario in suite.every_scenario for seed in scenario.seeds}


def plan_of(
    submission: MethodSource, suite: Suite, rows: Iterable[Mapping[str, Any]], generator: str, params: Params
) -> Plan:
    """Return a plan with every cell to which a row can belong, and possibly with further cells.

    Args:
        submission: A registered method.
        suite: The suite.
        rows: Rows of table ``cells``.
        generator: Kind of engine that answered the probes.
        params: Parameters of a submitted attack.

    Raises:
        UsageError: A row names an unknown scenario or an unknown defense.
    """
    rows = list(rows)
    scenarios = sorted({row["scenario"] for row in rows})
    return make_plan(
        submission.kind.suite_with(suite, submission.id, scenarios, params),
        generator,
        scenarios=scenarios,
        pipelines=sorted({row["defense"] for row in rows}),
        seeds=sorted({row["seed"] for row in rows}),
    )


def own_catalog(submission: MethodSource, plan: Plan) -> pa.Table:
    """Return the catalog rows of a submission: the method and, for an attack, the attack's scenarios."""
    identities = submission.kind.described(submission.id, (cell.scenario.id for cell in plan.cells))
    rows = [row for row in catalog_rows(plan) if (row["kind"], row["id"]) in identities]
    return pa.Table.from_pylist(rows, schema=TABLES["catalog"])


def _count(plan: Plan, rows: Iterable[Mapping[str, Any]]) -> int:
    """Return how many rows belong to a cell of the plan."""
    keys = {cell.cell_key for cell in plan.cells}
    return sum(row["cell_key"] in keys for row in rows)


def _rows(store: Store, table: str, keys: Collection[str], command: str) -> pa.Table:
    missing = sorted(key for key in keys if not store.has(table, key))
    if missing:
        raise UsageError(
            f"{store.root} lacks {len(missing)} files of table {table!r} for finished cells; run `{command}` again"
        )
    return pa.concat_tables([store.read(table, key) for key in sorted(keys)]).unify_dictionaries()


def _verdicts(store: Store, suite: Suite, response_keys: Collection[str]) -> pa.Table:
    """Return the verdicts of the suite's judges. A board shows only these verdicts."""
    tables = []
    judges: dict[str, set[str]] = defaultdict(set)
    for key in sorted(store.keys("verdicts")):
        response_key, _, rest = key.partition("-")
        judge = rest.rpartition("-")[0]
        if response_key in response_keys and judge in suite.judges:
            judges[response_key].add(judge)
            tables.append(store.read("verdicts", key))
    if any(judges[key] != set(suite.judges) for key in response_keys):
        raise UsageError(f"{store.root} lacks verdicts of finished cells; run `fedsafety judge --suite {suite.id}`")
    return pa.concat_tables(tables).unify_dictionaries()


def _foreign_seeds(seeds: Sequence[int]) -> tuple[str, ...]:
    """Return the notice about rows of seeds that the suite does not have."""
    if not seeds:
        return ()
    return (f"the bundle leaves out rows of seeds that the suite does not have: {', '.join(map(str, seeds[:20]))}",)


def _failures(rows: Collection[Mapping[str, Any]]) -> tuple[str, ...]:
    """Return the notice about the rows of failed cells."""
    if not rows:
        return ()
    first = min(rows, key=lambda row: [str(row[name]) for name in _NAME])
    cell = " / ".join(str(first[name]) for name in _NAME)
    return (f"{len(rows)} cells failed and keep the method from a rank, such as {cell}: {first['reason'][:200]}",)


def _gaps(submission: MethodSource, plan: Plan, suite: Suite) -> tuple[str, ...]:
    """Return the notices about scenarios and seeds of the suite that a claim lacks."""
    pipelines = sorted({cell.pipeline.name for cell in plan.cells})
    cells = {(cell.scenario.id, cell.pipeline.name, cell.seed) for cell in plan.cells}
    complete = submission.kind.complete(suite, {cell.scenario.id for cell in plan.cells})
    scenarios = {cell.scenario.id: cell.scenario for cell in plan.cells} | {s.id: s for s in suite.every_scenario}
    gaps = []
    for pipeline in pipelines:
        scenarios_by_gap: dict[tuple[tuple[int, ...], bool], list[str]] = defaultdict(list)
        for scenario in map(scenarios.__getitem__, complete):
            if scenario.defenses and pipeline not in scenario.defenses:
                continue  # the suite does not run the pipeline there
            own = suite.seeds_of(scenario)
            seeds = tuple(seed for seed in own if (scenario.id, pipeline, seed) not in cells)
            if seeds:
                scenarios_by_gap[seeds, len(seeds) == len(own)].append(scenario.id)
        for (seeds, every), names in sorted(scenarios_by_gap.items()):
            listing = "all seeds" if every else f"seeds {', '.join(map(str, seeds))}"
            gaps.append(f"{pipeline} lacks {listing} of {', '.join(names)}: a ranked row needs every seed")
    return tuple(gaps)


def environments(cells: pa.Table) -> tuple[dict[str, Any], ...]:
    """Return the distinct environments of cells, each as it stands in table ``cells``."""
    return tuple(json.loads(text) for text in sorted(pc.unique(cells.column("environment")).to_pylist()))
