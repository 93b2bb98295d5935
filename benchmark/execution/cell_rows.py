"""Rows of cells: their outcome, their identity in the plan, and the amounts that they used."""

from __future__ import annotations

import datetime
from typing import Any

from benchmark import PROTOCOL_VERSION
from benchmark.execution.outcome import Outcome, State
from benchmark.execution.plan import CellPlan, Plan
from benchmark.records.adapters import read_record
from benchmark.records.environment import environment
from benchmark.records.schemas import ORIGIN_LOCAL
from benchmark.records.store import Store

_IDENTITY = ("suite", "scenario", "defense", "stage", "seed")


class CellRows:
    """The cell rows of a store, read once, so that a settled cell's row is written once.

    A settled cell that is not the newest of its name gets a new row: the newest row counts, and the code of this run is
    the current code. Otherwise a return to an earlier version of a method would leave the later version in the tables.

    Args:
        plan: The plan of the cells.
        store: Holds the rows.
    """

    def __init__(self, plan: Plan, store: Store) -> None:
        self._plan, self._store = plan, store
        self._status: dict[str, str] = {}
        self._newest: dict[tuple[str, ...], tuple[datetime.datetime, str]] = {}
        columns = [*_IDENTITY, "cell_key", "status", "created_at"]
        for row in store.read_all("cells").select(columns).to_pylist():
            self._status[row["cell_key"]] = row["status"]
            name = tuple(str(row[column]) for column in _IDENTITY)
            version = (row["created_at"], row["cell_key"])
            self._newest[name] = max(version, self._newest.get(name, version))

    def settle(self, cell: CellPlan, outcome: Outcome) -> None:
        """Write the cell's row where needed.

        A failure is written anew unless an earlier run finished the cell. Any other outcome is written unless the row
        has it and is the newest of its name.
        """
        status = self._status.get(cell.cell_key)
        if outcome.state is State.FAILED:
            current = status == State.DONE
        else:
            current = status == outcome.state and self._is_newest(cell)
        if not current:
            _write_cell(self._plan, cell, self._store, outcome)

    def _is_newest(self, cell: CellPlan) -> bool:
        name = (self._plan.suite.id, cell.scenario.id, cell.pipeline.name, cell.stage.name, str(cell.seed))
        return name in self._newest and self._newest[name][1] == cell.cell_key


def _write_cell(plan: Plan, cell: CellPlan, store: Store, outcome: Outcome) -> None:
    """Write a cell's row. The amounts that a cell used are zero unless the cell is done."""
    done = outcome.state is State.DONE
    record = read_record(store.adapter_folder(cell.adapter_key)) if done else {}
    usage = record.get("usage", {})
    row = planned_columns(plan, cell) | {
        "origin": ORIGIN_LOCAL,
        "status": outcome.state.value,
        "reason": outcome.reason,
        "generator": _engine_of(store, cell.response_key) if done else "",
        "malicious_rows": record.get("malicious_rows", 0),
        "malicious_leaks": record.get("malicious_leaks", 0),
        "rejected_updates": record.get("rejected_updates", 0),
        "owned_aligned": usage.get("owned_aligned", 0),
        "owned_normal": usage.get("owned_normal", 0),
        "generated_pairs": usage.get("generated_pairs", 0),
        "generated_leaks": usage.get("generated_leaks", 0),
        "generated_tokens": usage.get("generated_tokens", 0),
        "finetune_steps": usage.get("finetune_steps", 0),
        "extra_models": usage.get("extra_models", 0),
        "server_seconds": usage.get("server_seconds", 0.0),
        "train_seconds": record.get("train_seconds", 0.0),
        "upload_bytes": record.get("upload_bytes", 0),
        "environment": environment(),
        "created_at": datetime.datetime.now(datetime.UTC),
    }
    store.write("cells", cell.cell_key, [row])


def planned_columns(plan: Plan, cell: CellPlan) -> dict[str, Any]:
    """Return the columns of a cell's row that follow from the plan alone, not from the outcome."""
    scenario = cell.scenario
    return {
        "cell_key": cell.cell_key,
        "protocol_version": PROTOCOL_VERSION,
        "suite": plan.suite.id,
        "suite_version": plan.suite.version,
        "scenario": scenario.id,
        "scenario_version": scenario.version,
        "twin": scenario.twin,
        "attack": scenario.attack.id,
        "defense": cell.pipeline.name,
        "stage": cell.stage.name,
        "final": cell.stage.name == cell.pipeline.name,
        "seed": cell.seed,
        "flags": list(cell.flags),
        "ranked": cell.pipeline.ranked,
        "knowledge": cell.stage.knowledge.value,
        "clients": scenario.clients,
        "participants": scenario.participants,
        "malicious": scenario.malicious,
        "declared_malicious": scenario.declared_malicious,
        "rounds": plan.suite.under(scenario).training.rounds + scenario.reattack_rounds,
        "start_model": scenario.start,
        "start_digest": plan.world.checkpoint(scenario.start).identity,
        "training_key": cell.training_key,
        "adapter_key": cell.adapter_key,
        "response_key": cell.response_key,
        "probe_set": plan.probe_set,
        "primary_judge": plan.suite.primary_judge,
    }


def _engine_of(store: Store, response_key: str) -> str:
    return str(store.read("responses", response_key)["generator"][0].as_py())
