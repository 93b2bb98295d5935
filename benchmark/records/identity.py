"""Keys that follow from the columns of rows, and the checks of rows against the keys that they claim."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmark.keys import content_key
from benchmark.records.schemas import STATUS_DONE, STATUS_NOT_APPLICABLE
from benchmark.records.withheld import ANSWERS, HASH, withheld

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

_OF_A_PROBE = (
    "probe_id",
    "kind",
    "stratum",
    "scored",
    "instruction",
    "max_new_tokens",
    "target",
    "reference",
    "publish",
)
"""Columns from which a probe set's digest follows, in the order of :func:`probe_set_key`."""

_OF_RESPONSES = ("probe_set", "generator")
"""Columns that all responses of a set and the row of their cell share."""


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


def probe_set_key(probes: Iterable[Sequence[Any]]) -> str:
    """Return the digest of a probe set from the values of the columns :data:`_OF_A_PROBE`, in the order of the set.

    A target enters where there is one, and a reference where its likelihood is measured; elsewhere it decides verdicts
    alone. Of probes whose prompts are not published the digest covers digests of the texts, so that it follows from
    published rows, too.
    """
    return content_key([_identity_of(*probe) for probe in probes])


def _identity_of(
    id_: str,
    kind: str,
    stratum: str,
    scored: bool,
    instruction: str,
    max_new_tokens: int,
    target: str,
    reference: str,
    publish: str | None,
) -> list[Any]:
    measured = [*([reference] if kind == "perplexity" else []), *filter(None, [target])]
    if publish in (ANSWERS, HASH):
        instruction, measured = withheld(instruction), [withheld(text) for text in measured]
    return [id_, kind, stratum, scored, instruction, max_new_tokens, *measured]


def find_foreign_key(cells: pa.Table) -> str:
    """Return the first cell whose key does not follow from its row, in words; empty if there is none."""
    for claimed, row in zip(cells["cell_key"].to_pylist(), cells.select(list(COVERED)).to_pylist(), strict=True):
        if claimed != (key := cell_key(row)):
            name = f"{row['suite']}, {row['scenario']}, {row['defense']}, stage {row['stage']}, seed {row['seed']}"
            return f"the cell {name} has the key {claimed!r}, but the values of its row give the key {key!r}"
    return ""


def find_foreign_probe_set(probes: pa.Table) -> str:
    """Return the first probe set whose digest does not follow from its probes, in words; empty if there is none.

    Rows without the columns that the digest needs, as schema version 1 has them, are not checked.
    """
    for column in ("position", "max_new_tokens", "target"):
        probes = probes.filter(pc.is_valid(probes[column]))
    sets: dict[str, dict[int, list[Any]]] = defaultdict(dict)
    for row in probes.select(["probe_set", "position", *_OF_A_PROBE]).to_pylist():
        probe = [row[column] for column in _OF_A_PROBE]
        other = sets[row["probe_set"]].setdefault(row["position"], probe)
        if other != probe:
            return f"two probes of the set {row['probe_set']!r} have the position {row['position']}"
    for claimed, places in sets.items():
        ordered = [places[position] for position in sorted(places)]
        if claimed != (key := probe_set_key(ordered)):
            return f"the probes of the set {claimed!r} give the digest {key!r}; a probe was changed, or is missing"
    return ""


def find_foreign_responses(cells: pa.Table, responses: pa.Table) -> str:
    """Return the first finished cell whose responses have another probe set or engine, in words; empty for none.

    Args:
        cells: Rows of cells.
        responses: Rows of responses, those of other cells among them; a cell may be without any.
    """
    names = ["response_key", *_OF_RESPONSES]
    sets: dict[str, dict[str, Any]] = {}
    for row in _distinct(responses, names):
        other = sets.setdefault(row["response_key"], row)
        for column in _OF_RESPONSES:
            if row[column] != other[column]:
                return (
                    f"the response set {row['response_key']!r} has the values {other[column]!r} and {row[column]!r} "
                    f"of {column}"
                )
    finished = cells.filter(pc.equal(_text(cells, "status"), STATUS_DONE))
    for row in _distinct(finished, names):
        found = sets.get(row["response_key"], row)
        for column in _OF_RESPONSES:
            if row[column] != found[column]:
                return (
                    f"the cell of the response set {row['response_key']!r} has {column} {row[column]!r}, and the "
                    f"responses have {found[column]!r}"
                )
    return ""


def find_divided_training(cells: pa.Table) -> str:
    """Return the first two cells of one training that contradict each other, in words; empty if there are none."""
    first: dict[str, dict[str, Any]] = {}
    for row in _distinct(cells, ["training_key", *_OF_A_TRAINING]):
        other = first.setdefault(row["training_key"], row)
        for column in _OF_A_TRAINING:
            if row[column] != other[column]:
                keys = [_first_cell(cells, {name: each[name] for name in each}) for each in (other, row)]
                return (
                    f"the cells {keys[0]} and {keys[1]} rest on one training, but have the values "
                    f"{other[column]!r} and {row[column]!r} of {column}"
                )
    return ""


def _first_cell(cells: pa.Table, values: Mapping[str, Any]) -> str:
    """Return the key of the first cell with these values."""
    for column, value in values.items():
        cells = cells.filter(pc.equal(_plain(cells, column), value))
    return str(cells["cell_key"][0].as_py())


def _distinct(table: pa.Table, columns: Sequence[str]) -> list[dict[str, Any]]:
    """Return each combination of values of ``columns`` once, in the order of its first row."""
    if not len(table):
        return []
    whole = np.zeros(len(table), np.int64)
    for name in columns:
        column = table[name].unify_dictionaries().combine_chunks()
        encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
        codes = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        # Number the combinations so far anew, so that no product of sizes exceeds 64 bits.
        whole = np.unique(whole, return_inverse=True)[1] * len(encoded.dictionary) + codes
    places = np.sort(np.unique(whole, return_index=True)[1])
    rows: list[dict[str, Any]] = table.select(list(columns)).take(pa.array(places)).to_pylist()
    return rows


def _plain(table: pa.Table, column: str) -> pa.ChunkedArray:
    """Return a column; labels as text."""
    return _text(table, column) if pa.types.is_dictionary(table[column].type) else table[column]


def _text(table: pa.Table, column: str) -> pa.ChunkedArray:
    return table[column].cast(pa.string())
