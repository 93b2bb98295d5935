"""What a row must satisfy beyond its column types: known labels, possible numbers, no privileges it may not have."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmark.records.identity import find_foreign_key
from benchmark.records.schemas import (
    KIND_ATTACK,
    KIND_DEFENSE,
    LABELS,
    ORIGIN_COMMITTED,
    ORIGIN_LOCAL,
    ORIGIN_SUBMITTED,
    READ_KINDS,
    ROLE_REFERENCE,
    ROLE_REFUSAL,
    ROLE_TARGET,
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
    "likelihoods": {"role": (ROLE_REFUSAL, ROLE_TARGET, ROLE_REFERENCE)},
    "probes": {"kind": ("harmful", "over_refusal", "utility", "perplexity")},
    "catalog": {"kind": ("suite", "scenario", KIND_ATTACK, KIND_DEFENSE, "judge")},
    "verifications": {"kind": (KIND_DEFENSE, KIND_ATTACK), "rung": (RUNG_CHECKED, RUNG_SAMPLED, RUNG_REPRODUCED)},
    "readings": {"kind": READ_KINDS, "first_label": LABELS, "second_label": LABELS},
}
_NAMED = {
    "cells": ("suite", "scenario", "twin", "defense", "stage", "cell_key"),
    "verifications": ("cell_key", "bundle", "id", "suite"),
    "readings": ("suite", "response_key", "probe_id", "scenario", "defense"),
}
_ORDERED = (
    ("participants", "clients", False),
    ("malicious", "clients", False),
    ("declared_malicious", "participants", True),
)
"""Pairs of columns of a cell, the first of which is at most the second, or less than it."""
_OF_CLIENTS = ("malicious", "weights", "norms", "losses")
"""Columns of a round with one value for each client."""
_MEASURED = ("cells", "rounds", "responses", "likelihoods", "task_scores", "readings")
"""Tables whose numbers are checked."""
_LAST_YEAR = 9000
LONGEST_NAME = 40
"""Characters of a reader's name."""
_FORMS = {
    "sheet": (re.compile(r"[0-9a-f]{12}"), "12 hexadecimal digits"),
    "answer": (re.compile(r"[0-9a-f]{64}"), "the SHA-256 of an answer and not its text"),
    "read_on": (re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}"), "a date such as 2030-01-31"),
    "response_key": (re.compile(r"[\w.:~+@-]{1,100}"), "a key"),
    "probe_id": (re.compile(r"[^\s]{1,100}"), "an id without blanks"),
    "scenario": (re.compile(r"[^\s]{1,100}"), "an id without blanks"),
    "defense": (re.compile(r"(?:[^\s]|, ){1,100}"), "an id, or a composition of ids with their settings"),
}
"""Columns of table ``readings`` that hold no free text, with their form in words."""
_SIGNED = {"task_scores": ("value", "stderr"), "likelihoods": ("nats",)}
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
    for field in table.schema if name in _MEASURED else ():
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
    if name == "rounds":
        return _rounds_problem(table)
    if name == "likelihoods":
        return _likelihood_problem(table)
    if name == "readings":
        return _reading_problem(table)
    return _judge_problem(table) if name == "verdicts" else ""


def is_reader_name(name: str) -> bool:
    """Return whether a text can be the name of a reader: one printable line of 1 to :data:`LONGEST_NAME` characters."""
    return bool(name.strip()) and len(name) <= LONGEST_NAME and name.isprintable()


def _reading_problem(readings: pa.Table) -> str:
    """Return the first value of a reading that has not the form of its column, so that a text cannot slip in."""
    for row in readings.to_pylist():
        for column, (form, words) in _FORMS.items():
            if not form.fullmatch(row[column]):
                return f"{column} of number {row['number']} is {_shortened(row[column])!r}, must be {words}"
        for column in ("first_reader", "second_reader"):
            if not is_reader_name(row[column]):
                return f"{column} is {_shortened(row[column])!r}, must be one line of 1 to {LONGEST_NAME} characters"
        if row["first_reader"] == row["second_reader"]:
            return f"both readers are {row['first_reader']!r}, two readers have two names"
        if len(row["judges"]) != len(row["verdicts"]):
            return f"number {row['number']} has {len(row['judges'])} judges and {len(row['verdicts'])} verdicts"
        for judge in row["judges"]:
            if not re.fullmatch(r"\w{1,100}", judge or ""):
                return f"judges of number {row['number']} hold {_shortened(str(judge))!r}, must be ids"
        for verdict in row["verdicts"]:
            if verdict not in VERDICT_WORDS:
                return f"a verdict is {_shortened(str(verdict))!r}, must be one of {', '.join(VERDICT_WORDS)}"
    return ""


def _shortened(text: str) -> str:
    """Return the beginning of a value: an error must not print a whole answer."""
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


_SHOWN = 12
"""Characters of a value that an error about a reading prints."""


def _likelihood_problem(table: pa.Table) -> str:
    if pc.max(table.column("nats")).as_py() > 0:
        return f"nats is {pc.max(table.column('nats')).as_py():g}, must be at most 0, the logarithm of certainty"
    unmeasured = table.filter(pc.equal(table.column("tokens"), 0)).column("nats")
    if len(unmeasured) and pc.min(unmeasured).as_py() < 0:
        return f"nats is {pc.min(unmeasured).as_py():g} over 0 tokens, where nothing is measured"
    return ""


def _number_problem(name: str, column: pa.ChunkedArray, signed: bool) -> str:
    values = column.drop_null()
    if pa.types.is_floating(values.type) and not pc.all(pc.is_finite(values)).as_py() and len(values):
        return f"{name} is not finite, numbers are"
    if not signed and len(values) and pc.min(values).as_py() < 0:
        return f"{name} is {pc.min(values).as_py()}, must not be negative"
    return ""


def _state_problem(cells: pa.Table) -> str:
    """Return the first contradiction among a cell's state, reason, stage, attack and shape."""
    text = {
        name: cells.column(name).cast(pa.string())
        for name in ("status", "reason", "stage", "defense", "scenario", "twin", "attack")
    }
    unexplained = pc.and_(pc.not_equal(text["status"], STATUS_DONE), pc.equal(text["reason"], ""))
    if (row := _first(unexplained)) is not None:
        status = text["status"][row].as_py()
        return f"status is {status!r} without a reason, every cell that is not done has a reason"
    final = cells.column("final")
    if (row := _first(pc.not_equal(final, pc.equal(text["stage"], text["defense"])))) is not None:
        stage, defense = text["stage"][row].as_py(), text["defense"][row].as_py()
        return f"final is {final[row].as_py()} for stage {stage!r} of {defense!r}, the last stage is final"
    own_twin = pc.equal(text["scenario"], text["twin"])
    if (row := _first(pc.and_(own_twin, pc.not_equal(text["attack"], "none")))) is not None:
        scenario, attack = text["scenario"][row].as_py(), text["attack"][row].as_py()
        return f"attack is {attack!r} in {scenario!r}, which is its own twin, and a twin has the attack 'none'"
    for small, large, strict in _ORDERED:
        compare = pc.greater_equal if strict else pc.greater
        if (row := _first(compare(cells.column(small), cells.column(large)))) is not None:
            values = cells.column(small)[row].as_py(), cells.column(large)[row].as_py()
            rule = "less than" if strict else "at most"
            return f"{small} is {values[0]} and {large} is {values[1]}, {small} are {rule} {large}"
    return ""


def _rounds_problem(rounds: pa.Table) -> str:
    """Return the first round whose lists do not have one possible number for each client."""
    columns = {name: rounds.column(name).combine_chunks() for name in ("clients", *_OF_CLIENTS, "rejected")}
    lengths = {name: pc.list_value_length(column).to_numpy(zero_copy_only=False) for name, column in columns.items()}
    doubtful = lengths["rejected"] > 0
    for name in _OF_CLIENTS:
        doubtful |= (lengths[name] != lengths["clients"]) & ~np.isnan(lengths[name].astype(float))
    for name, column in columns.items():
        values = column.flatten()
        odd = values.is_null().to_numpy(zero_copy_only=False)
        if pa.types.is_floating(values.type):
            numbers = values.to_numpy(zero_copy_only=False)
            odd |= ~np.isfinite(numbers) | ((numbers < 0) if name != "losses" else False)
        doubtful[pc.list_parent_indices(column).to_numpy()[odd]] = True
    # A round is looked at as Python values only where these columns leave a doubt.
    identity = {name: rounds.column(name) for name in ("training_key", "round")}
    suspects = pa.table(identity | columns).filter(pa.array(doubtful))
    return next(filter(None, map(_round_problem, suspects.to_pylist())), "")


def _round_problem(row: dict[str, Any]) -> str:
    clients, name = row["clients"], f"round {row['round']} of training {row['training_key']!r}"
    for column in _OF_CLIENTS:
        if row[column] is not None and len(row[column]) != len(clients):
            return f"{name} has {len(row[column])} {column} and {len(clients)} clients, each client has one"
    for column in ("clients", *_OF_CLIENTS, "rejected"):
        if None in (row[column] or ()):
            return f"{name} has a missing value among its {column}, each client has one"
    if foreign := sorted(set(row["rejected"]) - set(clients)):
        return f"{name} rejects {foreign[0]!r}, which is no client of the round"
    if not all(map(_is_size, row["weights"] or ())):
        return f"{name} has a weight that is negative or not finite, weights are finite numbers from 0"
    for client, malicious, norm, loss in zip(clients, row["malicious"], row["norms"], row["losses"], strict=True):
        refused = client in row["rejected"]
        if not refused and not _is_size(norm):
            return f"{name} has the norm {norm:g} of {client!r}, norms of accepted updates are finite and from 0"
        if not refused and not malicious and not math.isfinite(loss):
            return f"{name} has the loss {loss:g} of {client!r}, losses of honest clients are finite"
    return ""


def _is_size(number: float) -> bool:
    return math.isfinite(number) and number >= 0


def _first(mask: pa.ChunkedArray) -> int | None:
    """Return the index of the first true value."""
    index = int(pc.index(mask, pa.scalar(value=True)).as_py())
    return index if index >= 0 else None


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
