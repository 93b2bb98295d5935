"""Check of what a run counts as done: its files are opened before anything is trained.

A damaged file would otherwise be found by the leaderboard, after a run that ended well.
"""

from __future__ import annotations

from collections.abc import Iterator

from benchmark.errors import FedSafetyError
from benchmark.execution.cell_rows import planned_columns
from benchmark.execution.plan import CellPlan, Plan
from benchmark.records.store import Store

_CLAIMED = (
    "cell_key",
    "protocol_version",
    "suite",
    "suite_version",
    "scenario",
    "scenario_version",
    "defense",
    "stage",
    "seed",
    "flags",
    "training_key",
    "adapter_key",
    "response_key",
    "probe_set",
)
"""Columns of a cell that its key covers, so that the row of a planned cell holds the plan's values."""
_SHOWN = 3


def check_stored(plan: Plan, store: Store) -> None:
    """Open the stored cells, rounds, responses and probes of a plan; verdicts are opened by the judging.

    Raises:
        FedSafetyError: A file is damaged, is empty, or holds other rows than its name says; names up to three files.
    """
    problems = [*_artefact_problems(plan, store), *_cell_problems(plan, store)]
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


def check_key(store: Store, table: str, key: str, column: str, value: str) -> int:
    """Check that all rows of a file are of the key that the file is named by; return their number.

    Raises:
        FedSafetyError: The file is damaged, or a row is of another key.
    """
    rows = store.read(table, key)
    others = sorted(set(rows[column].unique().to_pylist()) - {value})
    if others:
        raise _contradiction(store, table, key, f"{column} {others[0]!r} and not {value!r}")
    return int(rows.num_rows)


def _artefact_problems(plan: Plan, store: Store) -> Iterator[str]:
    probes = len(plan.world.probes())
    expected = (
        ("rounds", "training_key", {c.training_key: _rounds(plan, c) for c in plan.cells}),
        ("responses", "response_key", {c.response_key: probes for c in plan.cells}),
        ("probes", "probe_set", {plan.probe_set: probes}),
    )
    for table, column, counts in expected:
        for key in sorted(counts.keys() & store.keys(table)):
            try:
                found = check_key(store, table, key, column, key)
                if found != counts[key]:
                    raise _contradiction(store, table, key, f"{found} rows and not {counts[key]}")
            except FedSafetyError as error:
                yield str(error)


def _rounds(plan: Plan, cell: CellPlan) -> int:
    """Return the number of rounds that a cell's training stores."""
    return plan.suite.under(cell.scenario).training.rounds if cell.pipeline.trains else 0


def _cell_problems(plan: Plan, store: Store) -> Iterator[str]:
    stored = store.keys("cells")
    for cell in plan.cells:
        if cell.cell_key not in stored:
            continue
        try:
            rows, planned = store.read("cells", cell.cell_key).to_pylist(), planned_columns(plan, cell)
            if len(rows) != 1:
                raise _contradiction(store, "cells", cell.cell_key, f"{len(rows)} rows and not 1")
            for column in _CLAIMED:
                if rows[0][column] != planned[column]:
                    found = f"{column} {rows[0][column]!r} and not {planned[column]!r}"
                    raise _contradiction(store, "cells", cell.cell_key, found)
        except FedSafetyError as error:
            yield str(error)


def _contradiction(store: Store, table: str, key: str, found: str) -> FedSafetyError:
    return FedSafetyError(
        f"{store.root / table / key}.parquet holds {found}, against the key in its name; delete it and run again to "
        f"remake it"
    )
