"""What a row must satisfy beyond its column types: known labels, possible numbers, no privileges it may not have."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmark.records.identity import find_foreign_key
from benchmark.records.schemas import (
    KIND_ATTACK,
    KIND_DEFENSE,
    ORIGIN_COMMITTED,
    ORIGIN_LOCAL,
    ORIGIN_SUBMITTED,
    RUNG_CHECKED,
    RUNG_REPRODUCED,
    RUNG_SAMPLED,
    STATUS_DONE,
    STATUS_FAILED,
    STATUS_NOT_APPLICABLE,
    VERDICT_WORDS,
)

_ALLOWED: dict[str, dict[str, tuple[str, ...]]] = {
    "cells": {
        "origin": (ORIGIN_COMMITTED, ORIGIN_LOCAL, ORIGIN_SUBMITTED),
        "status": (STATUS_DONE, STATUS_FAILED, STATUS_NOT_APPLICABLE),
        "knowledge": ("none", "declared_bound", "truth"),
    },
    "verdicts": {"verdict": VERDICT_WORDS},
    "probes": {"kind": ("harmful", "over_refusal", "utility")},
    "catalog": {"kind": ("suite", "scenario", KIND_ATTACK, KIND_DEFENSE, "judge")},
    "verifications": {"kind": (KIND_DEFENSE, KIND_ATTACK), "rung": (RUNG_CHECKED, RUNG_SAMPLED, RUNG_REPRODUCED)},
}
_NAMED = {
    "cells": ("suite", "scenario", "twin", "defense", "stage", "cell_key"),
    "verifications": ("cell_key", "bundle", "id", "suite"),
}
_LAST_YEAR = 9000
_SIGNED = {"task_scores": ("value", "stderr")}
"""Columns whose numbers may be negative."""


def find_problem(name: str, table: pa.Table) -> str:
    """Return the first problem of the rows of table ``name``: column, value and rule; empty if there is none."""
    for column, allowed in _ALLOWED.get(name, {}).items():
        foreign = sorted(set(pc.unique(table.column(column).cast(pa.string())).to_pylist()) - set(allowed))
        if foreign:
            return f"{column} is {foreign[0]!r}, must be one of {', '.join(allowed)}"
    for column in _NAMED.get(name, ()):
        if table.num_rows and pc.any(pc.equal(table.column(column).cast(pa.string()), "")).as_py():
            return f"{column} is empty, every row names one"
    for field in table.schema if name in ("cells", "rounds", "responses", "task_scores") else ():
        number = pa.types.is_floating(field.type) or pa.types.is_integer(field.type)
        signed = field.name in _SIGNED.get(name, ())
        if number and (problem := _number_problem(field.name, table.column(field.name), signed)):
            return problem
    if not table.num_rows:
        return ""
    if name == "cells":
        return _privilege_problem(table) or find_foreign_key(table) or _state_problem(table)
    if name == "responses" and len(shares := table.column("soft_refusal").drop_null()) and pc.max(shares).as_py() > 1:
        return f"soft_refusal is {pc.max(shares).as_py():g}, must be from 0 to 1"
    return _judge_problem(table) if name == "verdicts" else ""


def _number_problem(name: str, column: pa.ChunkedArray, signed: bool) -> str:
    values = column.drop_null()
    if pa.types.is_floating(values.type) and not pc.all(pc.is_finite(values)).as_py() and len(values):
        return f"{name} is not finite, numbers are"
    if not signed and len(values) and pc.min(values).as_py() < 0:
        return f"{name} is {pc.min(values).as_py()}, must not be negative"
    return ""


def _state_problem(cells: pa.Table) -> str:
    """Return the first contradiction among a cell's state, reason and stage."""
    for row in cells.select(["status", "reason", "final", "stage", "defense"]).to_pylist():
        if row["status"] != STATUS_DONE and not row["reason"]:
            return f"status is {row['status']!r} without a reason, every cell that is not done has a reason"
        if row["final"] != (row["stage"] == row["defense"]):
            return f"final is {row['final']} for stage {row['stage']!r} of {row['defense']!r}, the last stage is final"
    return ""


def _judge_problem(verdicts: pa.Table) -> str:
    """Return the first response set of which one judge gave verdicts under two identities."""
    keys, judge_ids, identities = (
        verdicts.column(name).unify_dictionaries().combine_chunks()
        for name in ("response_key", "judge", "judge_identity")
    )
    pairs = keys.indices.to_numpy().astype(np.int64) * len(judge_ids.dictionary) + judge_ids.indices.to_numpy()
    whole = np.unique(pairs * len(identities.dictionary) + identities.indices.to_numpy())
    owners, counts = np.unique(whole // len(identities.dictionary), return_counts=True)
    for pair in owners[counts > 1]:
        key, judge = divmod(int(pair), len(judge_ids.dictionary))
        return f"judge {judge_ids.dictionary[judge]} has two identities in the response set {keys.dictionary[key]}"
    return ""


def _privilege_problem(cells: pa.Table) -> str:
    truth = pc.equal(cells.column("knowledge").cast(pa.string()), "truth")
    if pc.any(pc.and_(truth, cells.column("ranked"))).as_py():
        return "a ranked row is told the truth about the attackers, only reference rows are"
    if pc.max(pc.year(cells.column("created_at"))).as_py() > _LAST_YEAR:
        return "created_at is beyond any calendar"
    if cells.column("flags").combine_chunks().flatten().null_count:
        return "flags holds a missing text, each flag is one"
    return ""
