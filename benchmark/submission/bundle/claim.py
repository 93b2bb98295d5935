"""Claim of a submission: its own cells in a folder of runs, and the plan that they belong to."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
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
from benchmark.suites.suite import Suite

GENERATORS = ("vllm", "transformers")
MOST_NOTICES, LONGEST_NOTICE = 100, 1000
_NAME = ("scenario", "defense", "stage", "seed")


@dataclass(frozen=True)
class Claim:
    """The cells that a submission claims, with all rows that belong to them.

    Attributes:
        plan: Just these cells, as the present code makes them.
        params: Parameters of a submitted attack.
        tables: Their rows by table.
        notices: What is missing or failed, in words.
    """

    plan: Plan
    params: Params
    tables: Mapping[str, pa.Table]
    notices: tuple[str, ...]


def collect(submission: MethodSource, suite: Suite, store: Store) -> Claim:
    """Return the claim that the rows of a store make for a registered method.

    Raises:
        UsageError: There are no finished rows of it, rows are of another version of it, or verdicts are missing.
    """
    every = [
        row
        for row in store.read_all("cells").to_pylist()
        if row["suite"] == suite.id and submission.kind.owns(row, submission.id)
    ]
    rows = [row for row in every if row["seed"] in seeds_of(suite)]
    others = sorted({row["seed"] for row in every} - {row["seed"] for row in rows})
    command = submission.kind.command(submission.id, suite, (row["scenario"] for row in every))
    if others and not rows:
        raise UsageError(
            f"{store.root} holds rows of {submission.id!r} for seeds only that suite {suite.id!r} does not have "
            f"({', '.join(map(str, others[:10]))}); run `{command}`"
        )
    if not rows:
        raise UsageError(
            f"{store.root} holds no rows of {submission.kind} {submission.id!r} in suite {suite.id!r}; make some with "
            f"`{command}`, or name the folder with --runs"
        )
    protocols = {row["protocol_version"] for row in rows}
    if PROTOCOL_VERSION not in protocols:
        raise UsageError(
            f"all rows of {submission.id!r} in {store.root} are of protocol {', '.join(sorted(protocols))}, and this "
            f"release submits protocol {PROTOCOL_VERSION}; run `{command}` again"
        )
    catalog = store.read_all("catalog").to_pylist()
    ways = [(kind, params) for kind in GENERATORS for params in submission.kind.params(submission.id, catalog)]
    plans = [(plan_of(submission, suite, rows, kind, params), params) for kind, params in ways]
    plan, params = max(plans, key=lambda each: _count(each[0], rows))
    planned = {cell.cell_key: cell for cell in plan.cells}
    held = {row["cell_key"]: row for row in rows if row["cell_key"] in planned}
    present = {tuple(row[name] for name in _NAME) for row in held.values()}
    stale = sorted({tuple(row[name] for name in _NAME) for row in rows} - present, key=str)
    if stale:
        raise UsageError(
            f"rows of {len(stale)} cells, such as {' / '.join(map(str, stale[0]))}, were not made by {submission.id!r} "
            f"as it is now, or under another protocol, engine or version of the suite; run `{command}` again: only "
            f"they are repeated"
        )
    done = [planned[key] for key, row in held.items() if row["status"] == STATUS_DONE]
    if not done:
        raise UsageError(f"no cell of {submission.id!r} is finished; run `{command}` and mend what it reports")
    claimed = replace(plan, cells=tuple(cell for cell in plan.cells if cell.cell_key in held))
    tables = {
        "cells": pa.Table.from_pylist([held[cell.cell_key] for cell in claimed.cells], schema=TABLES["cells"]),
        "rounds": _rows(store, "rounds", {cell.training_key for cell in done}, command),
        "responses": _rows(store, "responses", {cell.response_key for cell in done}, command),
        "verdicts": _verdicts(store, suite, {cell.response_key for cell in done}),
        "probes": _rows(store, "probes", {plan.probe_set}, command),
        "catalog": own_catalog(submission, claimed),
    }
    failed = [row for row in held.values() if row["status"] == STATUS_FAILED]
    left_out = [f"rows of seeds that the suite does not have are left out: {', '.join(map(str, others[:20]))}"]
    notices = [*(left_out if others else []), *_failures(failed), *_gaps(submission, claimed, suite)]
    return Claim(claimed, params, tables, tuple(notice[:LONGEST_NOTICE] for notice in notices[:MOST_NOTICES]))


def seeds_of(suite: Suite) -> frozenset[int]:
    """Return the run seeds of a suite's scenarios and sensitivity points; rows of other seeds count for no score."""
    return frozenset(suite.seeds) | {seed for point in suite.points for seed in point.seeds}


def plan_of(
    submission: MethodSource, suite: Suite, rows: Iterable[Mapping[str, Any]], generator: str, params: Params
) -> Plan:
    """Return a plan that has every cell that ``rows`` of table ``cells`` can be of; it may have more.

    Args:
        submission: A registered method.
        suite: The suite.
        rows: Rows of table ``cells``.
        generator: Kind of engine that answered.
        params: Parameters of a submitted attack.

    Raises:
        UsageError: A row names a scenario or a defense that there is not.
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
    """Return the catalog rows that describe what is submitted: the method and, of an attack, its scenarios."""
    own = submission.kind.described(submission.id, (cell.scenario.id for cell in plan.cells))
    rows = [row for row in catalog_rows(plan) if (row["kind"], row["id"]) in own]
    return pa.Table.from_pylist(rows, schema=TABLES["catalog"])


def _count(plan: Plan, rows: Iterable[Mapping[str, Any]]) -> int:
    planned = {cell.cell_key for cell in plan.cells}
    return sum(row["cell_key"] in planned for row in rows)


def _rows(store: Store, table: str, keys: Collection[str], command: str) -> pa.Table:
    missing = sorted(key for key in keys if not store.has(table, key))
    if missing:
        raise UsageError(f"{store.root} lacks {table} of {len(missing)} finished cells; run `{command}` again")
    return pa.concat_tables([store.read(table, key) for key in sorted(keys)]).unify_dictionaries()


def _verdicts(store: Store, suite: Suite, response_keys: Collection[str]) -> pa.Table:
    """Return the verdicts of the suite's judges; a board shows no verdicts of other judges."""
    tables = []
    judged: dict[str, set[str]] = defaultdict(set)
    for key in sorted(store.keys("verdicts")):
        response_key, _, rest = key.partition("-")
        judge = rest.rpartition("-")[0]
        if response_key in response_keys and judge in suite.judges:
            judged[response_key].add(judge)
            tables.append(store.read("verdicts", key))
    if any(judged[key] != set(suite.judges) for key in response_keys):
        raise UsageError(
            f"{store.root} lacks verdicts of finished cells; make them with `fedsafety judge --suite {suite.id}`"
        )
    return pa.concat_tables(tables).unify_dictionaries()


def _failures(failed: Collection[Mapping[str, Any]]) -> tuple[str, ...]:
    if not failed:
        return ()
    first = min(failed, key=lambda row: [str(row[name]) for name in _NAME])
    where = " / ".join(str(first[name]) for name in _NAME)
    return (f"{len(failed)} cells failed and keep it from being ranked, such as {where}: {first['reason'][:200]}",)


def _gaps(submission: MethodSource, plan: Plan, suite: Suite) -> tuple[str, ...]:
    """Return which scenarios and seeds of the suite a claim lacks."""
    pipelines = sorted({cell.pipeline.name for cell in plan.cells})
    have = {(cell.scenario.id, cell.pipeline.name, cell.seed) for cell in plan.cells}
    scenarios = submission.kind.complete(suite, {cell.scenario.id for cell in plan.cells})
    gaps = []
    for pipeline in pipelines:
        lacking: dict[tuple[int, ...], list[str]] = defaultdict(list)
        for scenario in scenarios:
            seeds = tuple(seed for seed in suite.seeds if (scenario, pipeline, seed) not in have)
            lacking[seeds].append(scenario)
        lacking.pop((), None)
        for seeds, names in sorted(lacking.items()):
            which = "all seeds" if len(seeds) == len(suite.seeds) else f"seeds {', '.join(map(str, seeds))}"
            gaps.append(f"{pipeline} lacks {which} of {', '.join(names)}: a ranked row needs all of them")
    return tuple(gaps)


def environments(cells: pa.Table) -> tuple[dict[str, Any], ...]:
    """Return the different environments in which cells were made."""
    return tuple(json.loads(text) for text in sorted(pc.unique(cells.column("environment")).to_pylist()))
