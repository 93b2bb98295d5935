"""The outcome of a cell follows from the plan, the store and the failures of a run, and its row shows it."""

from __future__ import annotations

import datetime
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmark.errors import FedSafetyError
from benchmark.execution.cell_rows import CellRows
from benchmark.execution.outcome import Outcome, State, outcome_of, reason_of, recorded_outcome
from benchmark.execution.plan import CellPlan, Plan, make_plan
from benchmark.records.adapters import Usage, write_record
from benchmark.records.store import Store
from benchmark.suites.suite import find_suite

RECORD = {
    "usage": vars(Usage(generated_pairs=3)),
    "malicious_rows": 1,
    "malicious_leaks": 0,
    "rejected_updates": 0,
    "train_seconds": 0.5,
    "upload_bytes": 40,
}


@pytest.fixture(scope="module")
def plan() -> Plan:
    return make_plan(find_suite("micro"), "transformers", scenarios=["clean"], pipelines=["fedavg"], seeds=[11])


@pytest.fixture
def cell(plan: Plan) -> CellPlan:
    return plan.cells[0]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def train(store: Store, cell: CellPlan) -> None:
    store.adapter_folder(cell.adapter_key).mkdir(parents=True)
    write_record(store, cell.adapter_key, RECORD)


def answer(store: Store, cell: CellPlan) -> None:
    row: dict[str, Any] = {
        "response_key": cell.response_key,
        "probe_set": "p",
        "probe_id": "one",
        "response": "w1",
        "tokens": 1,
        "finished": True,
        "soft_refusal": None,
        "generator": "made",
    }
    store.write("responses", cell.response_key, [row])


def test_a_cell_goes_from_planned_to_trained_to_done(store: Store, cell: CellPlan) -> None:
    assert outcome_of(cell, store) == Outcome(State.PLANNED)
    train(store, cell)
    assert outcome_of(cell, store) == Outcome(State.TRAINED)
    answer(store, cell)
    assert outcome_of(cell, store) == Outcome(State.DONE)
    assert [State(name).value for name in ("to train", "to answer", "done")] == ["to train", "to answer", "done"]


@pytest.mark.parametrize(
    ("change", "failures", "expected"),
    [
        ({"not_applicable": "n < 9"}, {}, Outcome(State.NOT_APPLICABLE, "n < 9")),
        ({"not_applicable": "n < 9", "broken": "no"}, {}, Outcome(State.NOT_APPLICABLE, "n < 9")),
        ({"broken": "no"}, {"a": "diverged"}, Outcome(State.FAILED, "no")),
        ({}, {"a": "diverged"}, Outcome(State.FAILED, "diverged")),
        ({}, {"r": "served nothing"}, Outcome(State.FAILED, "served nothing")),
        ({}, {"a": "diverged", "r": "served nothing"}, Outcome(State.FAILED, "diverged")),
        ({}, {"other": "diverged"}, Outcome(State.DONE)),
    ],
)
def test_reasons_are_weighed_in_the_order_of_the_work(
    store: Store, cell: CellPlan, change: dict[str, str], failures: dict[str, str], expected: Outcome
) -> None:
    changed = replace(cell, adapter_key="a", response_key="r", **change)  # type: ignore[arg-type]
    answer(store, changed)
    assert outcome_of(changed, store, failures) == expected
    assert not expected.open


def test_the_row_holds_the_outcome(store: Store, plan: Plan, cell: CellPlan) -> None:
    assert recorded_outcome(cell, store) == Outcome(State.PLANNED)
    train(store, cell)
    answer(store, cell)
    assert recorded_outcome(cell, store) == Outcome(State.TRAINED)  # its row is still to be written
    for outcome in (Outcome(State.FAILED, "served nothing"), Outcome(State.DONE)):
        CellRows(plan, store).settle(cell, outcome)
        assert recorded_outcome(cell, store) == outcome
    (row,) = store.read("cells", cell.cell_key).to_pylist()
    assert (row["generated_pairs"], row["upload_bytes"], row["generator"]) == (3, 40, "made")


def test_a_settled_row_is_written_once_and_a_failure_leaves_a_finished_cell_alone(
    store: Store, plan: Plan, cell: CellPlan
) -> None:
    train(store, cell)
    answer(store, cell)

    def row() -> Any:
        return store.read("cells", cell.cell_key).to_pylist()

    CellRows(plan, store).settle(cell, Outcome(State.FAILED, "first"))
    CellRows(plan, store).settle(cell, Outcome(State.FAILED, "second"))
    assert row()[0]["reason"] == "second"
    CellRows(plan, store).settle(cell, Outcome(State.DONE))
    finished = row()
    for outcome in (Outcome(State.DONE), Outcome(State.FAILED, "third")):
        CellRows(plan, store).settle(cell, outcome)
        assert row() == finished


def test_the_row_of_an_earlier_version_is_written_again_when_it_is_current_again(
    store: Store, plan: Plan, cell: CellPlan
) -> None:
    outcome, path = Outcome(State.NOT_APPLICABLE, "n < 9"), store.root / "cells" / f"{cell.cell_key}.parquet"
    CellRows(plan, store).settle(cell, outcome)
    written = path.stat().st_mtime_ns
    CellRows(plan, store).settle(cell, outcome)
    assert path.stat().st_mtime_ns == written
    (row,) = store.read("cells", cell.cell_key).to_pylist()
    later = {"cell_key": "later", "created_at": row["created_at"] + datetime.timedelta(hours=1)}
    store.write("cells", "later", [row | later])
    CellRows(plan, store).settle(cell, outcome)
    assert path.stat().st_mtime_ns > written


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (FedSafetyError("mend it"), "mend it"),
        (ValueError("odd \ud800"), "ValueError: odd ?"),
        (SystemExit(3), "SystemExit: 3"),
        (RuntimeError("x" * 3000), f"RuntimeError: {'x' * 1986}"),
    ],
)
def test_a_reason_is_text_that_can_be_stored(error: BaseException, reason: str) -> None:
    assert reason_of(error) == reason
