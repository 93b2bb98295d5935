"""Check of what a run counts as done: its files are opened before anything is trained.

A damaged file would otherwise be found by the leaderboard, after a run that ended well.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping

import pyarrow as pa

from benchmark.errors import FedSafetyError
from benchmark.execution.cell_rows import planned_columns
from benchmark.execution.input_rows import probe_rows
from benchmark.execution.likelihoods import answered, continuations
from benchmark.execution.outcome import State
from benchmark.execution.plan import CellPlan, Plan
from benchmark.records.plausible import find_problem
from benchmark.records.schemas import ADDED, ORIGIN_LOCAL
from benchmark.records.store import Store

_CLAIMED = (
    "cell_key",
    "origin",
    "protocol_version",
    "suite",
    "suite_version",
    "scenario",
    "scenario_version",
    "defense",
    "stage",
    "seed",
    "flags",
    "twin",
    "attack",
    "clients",
    "participants",
    "malicious",
    "declared_malicious",
    "rounds",
    "start_model",
    "start_digest",
    "training_key",
    "adapter_key",
    "response_key",
    "probe_set",
)
"""Columns of a cell that its key covers, so that the row of a planned cell holds the plan's values."""
_SHOWN = 3


def check_stored(plan: Plan, store: Store) -> None:
    """Open the stored cells, rounds, responses, likelihoods and probes of a plan; verdicts are opened by the judging.

    Raises:
        FedSafetyError: A file is damaged, is empty, or holds other rows than its name says; names up to three files.
    """
    problems = [*dict.fromkeys([*_artefact_problems(plan, store), *_cell_problems(plan, store)])]
    if problems:
        more = f"; and {len(problems) - _SHOWN} more files" if len(problems) > _SHOWN else ""
        raise FedSafetyError("; ".join(problems[:_SHOWN]) + more)


def check_engine(plan: Plan, other: Plan, store: Store, reason: str) -> None:
    """Check that the engine of ``plan`` does not answer again the cells that another engine has answered.

    Args:
        plan: The plan with the engine that was chosen automatically.
        other: The same plan with the other engine.
        store: The store.
        reason: The reason of the choice, for the message.

    Raises:
        FedSafetyError: The store holds responses by the other engine where it lacks those of the chosen one.
    """
    stored = store.keys("responses")
    changed = sum(
        theirs.response_key in stored and ours.response_key not in stored
        for ours, theirs in zip(plan.cells, other.cells, strict=True)
    )
    if changed:
        raise FedSafetyError(
            f"{store.root} holds the responses of {changed} of {len(plan.cells)} cells by the engine "
            f"{other.generator}, but the engine auto is {plan.generator} now ({reason.rstrip('.')}); go on with "
            f"--engine {other.generator}, or answer the cells again with --engine {plan.generator}"
        )


def check_keys(store: Store, table: str, key: str, claimed: Mapping[str, str]) -> pa.Table:
    """Check that all rows of a file have the values that its name claims; return them.

    Args:
        store: The store.
        table: Name of the table.
        key: Name of the file.
        claimed: Column → value.

    Raises:
        FedSafetyError: The file is damaged, or a row has another value.
    """
    rows = store.read(table, key)
    for column, value in claimed.items():
        if others := sorted(set(rows[column].unique().to_pylist()) - {value}):
            raise _contradiction(store, table, key, f"{column} {others[0]!r} and not {value!r}")
    return rows


def check_probe_ids(store: Store, table: str, key: str, rows: pa.Table, expected: Collection[str]) -> None:
    """Check that rows are on each of the expected probes once, and on no other.

    Raises:
        FedSafetyError: They are not.
    """
    counts = Counter(rows["probe_id"].to_pylist())
    if len(rows) != len(expected):
        raise _contradiction(store, table, key, f"{len(rows)} rows and not {len(expected)}")
    if counts != Counter(expected):
        odd = min((counts - Counter(expected)) or (Counter(expected) - counts))
        raise _contradiction(store, table, key, f"{counts[odd]} rows on the probe {odd!r}")


def check_plausible(store: Store, table: str, key: str, rows: pa.Table) -> None:
    """Check that no row of a file is impossible by itself.

    Raises:
        FedSafetyError: A row is.
    """
    if problem := find_problem(table, rows):
        raise FedSafetyError(
            f"{store.root / table / key}.parquet cannot be right: {problem}; delete it and run again to remake it"
        )


def _artefact_problems(plan: Plan, store: Store) -> Iterator[str]:
    expected: tuple[tuple[str, str, dict[str, CellPlan | None], Callable[..., None]], ...] = (
        ("rounds", "training_key", {cell.training_key: cell for cell in plan.cells}, _check_rounds),
        ("responses", "response_key", {cell.response_key: cell for cell in plan.cells}, _check_responses),
        ("likelihoods", "response_key", {cell.response_key: cell for cell in plan.cells}, _check_likelihoods),
        ("probes", "probe_set", {plan.probe_set: None}, _check_probes),
    )
    for key in sorted(store.keys("catalog")):
        try:
            if not len(store.read("catalog", key)):
                raise _contradiction(store, "catalog", key, "0 rows")
        except FedSafetyError as error:
            yield str(error)
    for table, column, cells, check in expected:
        for key in sorted(cells.keys() & store.keys(table)):
            try:
                check(plan, store, key, check_keys(store, table, key, {column: key}), cells[key])
            except FedSafetyError as error:
                yield str(error)


def _check_rounds(plan: Plan, store: Store, key: str, rows: pa.Table, cell: CellPlan) -> None:
    rounds = plan.suite.under(cell.scenario).training.rounds if cell.pipeline.trains else 0
    if len(rows) != rounds:
        raise _contradiction(store, "rounds", key, f"{len(rows)} rows and not {rounds}")
    if sorted(rows["round"].to_pylist()) != list(range(rounds)):
        raise _contradiction(store, "rounds", key, f"a round twice and not each of {rounds} rounds")
    check_plausible(store, "rounds", key, rows)


def _check_responses(plan: Plan, store: Store, key: str, rows: pa.Table, cell: CellPlan) -> None:
    check_probe_ids(store, "responses", key, rows, [probe.id for probe in answered(plan.world.probes())])
    engines = {"probe_set": {plan.probe_set}, "generator": set(rows["generator"][:1].to_pylist())}
    for column, values in engines.items():
        if others := sorted(set(rows[column].unique().to_pylist()) - values):
            raise _contradiction(store, "responses", key, f"{column} {others[0]!r} and not {min(values)!r}")
    check_plausible(store, "responses", key, rows)


def _check_likelihoods(plan: Plan, store: Store, key: str, rows: pa.Table, cell: CellPlan) -> None:
    if len(rows) != cell.likelihoods:
        raise _contradiction(store, "likelihoods", key, f"{len(rows)} rows and not {cell.likelihoods}")
    openings = plan.world.refusal_openings
    expected = {(p.id, each.role, each.index) for p in plan.world.probes() for each in continuations(p, openings)}
    found = set(zip(*(rows[column].to_pylist() for column in ("probe_id", "role", "index")), strict=True))
    if others := sorted(found ^ expected):
        raise _contradiction(store, "likelihoods", key, f"other rows than the plan has, for example of {others[0]}")
    if problem := find_problem("likelihoods", rows):
        raise _contradiction(store, "likelihoods", key, problem)


def _check_probes(plan: Plan, store: Store, key: str, rows: pa.Table, _: None) -> None:
    check_probe_ids(store, "probes", key, rows, [probe.id for probe in plan.world.probes()])
    stored = {row["probe_id"]: row for row in rows.to_pylist()}
    for planned in probe_rows(plan):
        for column, value in planned.items():
            found = stored[planned["probe_id"]][column]
            # Rows of schema version 1 lack the later columns.
            if found != value and not (found is None and column in ADDED["probes"]):
                probe = planned["probe_id"]
                raise _contradiction(store, "probes", key, f"{column} {found!r} of {probe!r} and not {value!r}")


def _cell_problems(plan: Plan, store: Store) -> Iterator[str]:
    stored = store.keys("cells")
    for cell in plan.cells:
        if cell.cell_key not in stored:
            continue
        try:
            table = store.read("cells", cell.cell_key)
            rows, planned = table.to_pylist(), planned_columns(plan, cell) | {"origin": ORIGIN_LOCAL}
            if len(rows) != 1:
                raise _contradiction(store, "cells", cell.cell_key, f"{len(rows)} rows and not 1")
            if rows[0]["status"] == State.DONE and store.has("responses", cell.response_key):
                engines = store.read("responses", cell.response_key)["generator"]
                planned |= {"generator": engines[0].as_py()} if len(engines) else {}
            for column in (*_CLAIMED, *(["generator"] if "generator" in planned else [])):
                if rows[0][column] != planned[column]:
                    found = f"{column} {rows[0][column]!r} and not {planned[column]!r}"
                    raise _contradiction(store, "cells", cell.cell_key, found)
            check_plausible(store, "cells", cell.cell_key, table)
        except FedSafetyError as error:
            yield str(error)


def _contradiction(store: Store, table: str, key: str, found: str) -> FedSafetyError:
    return FedSafetyError(
        f"{store.root / table / key}.parquet holds {found}, against the key in its name; delete it and run again to "
        f"remake it"
    )
