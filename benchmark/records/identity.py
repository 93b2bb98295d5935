"""Columns of a cell's row that the cell's key covers, and the check of a row against the key that the row claims."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from benchmark.keys import content_key
from benchmark.records.schemas import STATUS_NOT_APPLICABLE

COVERED = (
    "suite",
    "suite_version",
    "primary_judge",
    "scenario",
    "scenario_version",
    "twin",
    "defense",
    "stage",
    "ranked",
    "seed",
    "status",
    "reason",
    "flags",
    "response_key",
)
"""Columns of a cell's row from which its key follows. The response key covers the artefacts below the cell."""

_OF_A_TRAINING = (
    "protocol_version",
    "attack",
    "clients",
    "participants",
    "malicious",
    "declared_malicious",
    "start_model",
    "start_digest",
)
"""Columns that a training's key covers and a cell's does not, so that all cells of one training have one value."""


def cell_key(row: Mapping[str, Any]) -> str:
    """Return the key of a cell from the columns :data:`COVERED` of its row.

    A cell that does not apply has its reason in the key. The reason of a failed cell is no part of the key, because a
    later try may succeed.
    """
    reason = row["reason"] if row["status"] == STATUS_NOT_APPLICABLE else ""
    identity = [
        [row["suite"], row["suite_version"], row["primary_judge"]],
        [row["scenario"], row["scenario_version"], row["twin"]],
        [row["defense"], row["stage"], row["ranked"], row["seed"]],
        [reason, *row["flags"]],
        row["response_key"],
    ]
    return content_key(["cell", *identity])


def find_foreign_key(cells: pa.Table) -> str:
    """Return the first cell whose key does not follow from its row, in words; empty if there is none."""
    for claimed, row in zip(cells["cell_key"].to_pylist(), cells.select(list(COVERED)).to_pylist(), strict=True):
        if claimed != (key := cell_key(row)):
            name = f"{row['suite']}, {row['scenario']}, {row['defense']}, stage {row['stage']}, seed {row['seed']}"
            return f"the cell {name} has the key {claimed!r}, but the values of its row give the key {key!r}"
    return ""


def find_divided_training(cells: pa.Table) -> str:
    """Return the first two cells of one training that contradict each other, in words; empty if there are none."""
    first: dict[str, dict[str, Any]] = {}
    for row in cells.select(["training_key", "cell_key", *_OF_A_TRAINING]).to_pylist():
        other = first.setdefault(row["training_key"], row)
        for column in _OF_A_TRAINING:
            if row[column] != other[column]:
                return (
                    f"the cells {other['cell_key']} and {row['cell_key']} rest on one training, but have the values "
                    f"{other[column]!r} and {row[column]!r} of {column}"
                )
    return ""
