"""Outcome of a cell: how far it has come, or why it did not come further.

One function, :func:`outcome_of`, decides the outcome from the plan, the store and the failures of a run. The run, its
rows and the table of a plan read it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from benchmark.errors import FedSafetyError
from benchmark.execution.plan import CellPlan
from benchmark.records.adapters import adapter_is_complete
from benchmark.records.schemas import STATUS_DONE, STATUS_FAILED, STATUS_NOT_APPLICABLE
from benchmark.records.store import Store

_REASON_LENGTH = 2000

Failures = Mapping[str, str]
"""Artefact key → reason why the artefact is missing, for an adapter or a response set."""

NO_FAILURES: Failures = MappingProxyType({})


class State(StrEnum):
    """State of a cell. The first three states are final and are the values of a row's column ``status``."""

    NOT_APPLICABLE = STATUS_NOT_APPLICABLE
    """The scenario's shape or its start model breaks a condition of the defense."""
    FAILED = STATUS_FAILED
    """The method or the training failed."""
    DONE = STATUS_DONE
    """The responses are stored, and the likelihoods where the suite measures some."""
    TRAINED = "to answer"
    """The adapter is stored, the responses are not."""
    PLANNED = "to train"
    """The adapter is not stored."""


@dataclass(frozen=True)
class Outcome:
    """State of a cell and its reason; the reason is empty unless the cell failed or is not applicable."""

    state: State
    reason: str = ""

    @property
    def open(self) -> bool:
        """Whether work remains for the cell."""
        return self.state in (State.TRAINED, State.PLANNED)


def outcome_of(cell: CellPlan, store: Store, failures: Failures = NO_FAILURES) -> Outcome:
    """Return the outcome of a cell.

    Args:
        cell: The cell.
        store: Where its artefacts are.
        failures: Failures of this run.
    """
    if cell.not_applicable:
        return Outcome(State.NOT_APPLICABLE, cell.not_applicable)
    if reason := cell.broken or failures.get(cell.adapter_key) or failures.get(cell.response_key):
        return Outcome(State.FAILED, reason)
    if answers_are_stored(cell, store):
        return Outcome(State.DONE)
    return Outcome(State.TRAINED if adapter_is_complete(store, cell.adapter_key) else State.PLANNED)


def answers_are_stored(cell: CellPlan, store: Store) -> bool:
    """Return whether the store has the responses of a cell, and the likelihoods where the suite measures some."""
    measured = not cell.likelihoods or store.has("likelihoods", cell.response_key)
    return measured and store.has("responses", cell.response_key)


def recorded_outcome(cell: CellPlan, store: Store) -> Outcome:
    """Return the outcome in the cell's row, or the outcome so far if the cell has no row."""
    if cell.not_applicable or not store.has("cells", cell.cell_key):
        outcome = outcome_of(cell, store)
        # Without a row, the answers of a cell are written again or settled by the next run.
        return Outcome(State.TRAINED) if outcome.state is State.DONE else outcome
    row = store.read("cells", cell.cell_key).select(["status", "reason"]).to_pylist()[0]
    return Outcome(State(row["status"]), row["reason"])


def reason_of(error: BaseException, place: str = "") -> str:
    """Return the reason of a failure for a cell's row: text that the store can hold, even if a method wrote it.

    Args:
        error: The error. Errors of this library give their text, other errors also their type and ``place``.
        place: Text after the error, for example a line of the method's code.
    """
    text = str(error) if isinstance(error, FedSafetyError) else f"{type(error).__name__}: {error}{place}"
    return text.encode("utf-8", "replace").decode()[:_REASON_LENGTH]
