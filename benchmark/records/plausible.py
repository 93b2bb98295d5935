"""What a row must satisfy beyond its column types: known labels, possible numbers, no privileges it may not have."""

from __future__ import annotations

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
    "verifications": {"kind": (KIND_DEFENSE, KIND_ATTACK), "rung": (RUNG_CHECKED, RUNG_SAMPLED, RUNG_REPRODUCED)},
}
_NAMED = {
    "cells": ("suite", "scenario", "twin", "defense", "stage", "cell_key"),
    "verifications": ("cell_key", "bundle", "id", "suite"),
}
_LAST_YEAR = 9000


def find_problem(name: str, table: pa.Table) -> str:
    """Return the first problem of the rows of table ``name``: column, value and rule; empty if there is none."""
    for column, allowed in _ALLOWED.get(name, {}).items():
        foreign = sorted(set(pc.unique(table.column(column).cast(pa.string())).to_pylist()) - set(allowed))
        if foreign:
            return f"{column} is {foreign[0]!r}, must be one of {', '.join(allowed)}"
    for column in _NAMED.get(name, ()):
        if table.num_rows and pc.any(pc.equal(table.column(column).cast(pa.string()), "")).as_py():
            return f"{column} is empty, every row names one"
    for field in table.schema if name in ("cells", "task_scores") else ():
        number = pa.types.is_floating(field.type) or pa.types.is_integer(field.type)
        problem = _number_problem(field.name, table.column(field.name), name == "task_scores") if number else ""
        if problem:
            return problem
    return _privilege_problem(table) or find_foreign_key(table) if name == "cells" and table.num_rows else ""


def _number_problem(name: str, column: pa.ChunkedArray, signed: bool) -> str:
    values = column.drop_null()
    if pa.types.is_floating(values.type) and not pc.all(pc.is_finite(values)).as_py() and len(values):
        return f"{name} is not finite, numbers are"
    if not signed and len(values) and pc.min(values).as_py() < 0:
        return f"{name} is {pc.min(values).as_py()}, must not be negative"
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
