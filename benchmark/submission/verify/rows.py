"""Claimed rows against the plan: every row belongs to a cell that the submitted source makes, and none is missing."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pyarrow as pa

from benchmark.errors import FedSafetyError
from benchmark.execution.cell_rows import planned_columns
from benchmark.execution.likelihoods import answered, continuations
from benchmark.execution.plan import CellPlan, Plan
from benchmark.judges.base import judges
from benchmark.records.schemas import ORIGIN_LOCAL, STATUS_DONE, STATUS_NOT_APPLICABLE
from benchmark.records.withheld import Extents, find_misplaced, withheld
from benchmark.submission.bundle.claim import seeds_of
from benchmark.suites.suite import Suite
from tasks.base import Probe

Tables = Mapping[str, pa.Table]


class ClaimError(FedSafetyError):
    """Claimed rows are not those that their source makes."""


def checked_cells(plan: Plan, tables: Tables) -> list[CellPlan]:
    """Return the planned cells of all claimed rows, in the order of the plan.

    Args:
        plan: A plan that has every cell that the submitted source can make.
        tables: The claimed rows.

    Raises:
        ClaimError: A row is not one that the source makes, differs from what the plan says of it, occurs twice, or is
            missing; says which.
    """
    planned = {cell.cell_key: cell for cell in plan.cells}
    rows = tables["cells"].to_pylist()
    repeated = [key for key, count in Counter(row["cell_key"] for row in rows).items() if count > 1]
    if repeated:
        raise ClaimError(f"cell {repeated[0]!r} is there twice")
    for row in rows:
        _check_cell(plan, planned, row)
    claimed = {row["cell_key"]: row for row in rows}
    done = [planned[key] for key, row in claimed.items() if row["status"] == STATUS_DONE]
    if not done:
        raise ClaimError("no claimed cell is finished, so there is nothing to verify")
    _check_keys("rounds", "training_key", tables["rounds"], {cell.training_key for cell in done})
    for table in ("responses", "verdicts"):
        _check_keys(table, "response_key", tables[table], {cell.response_key for cell in done})
    _check_rounds(tables["rounds"], {c.training_key: plan.suite.under(c.scenario).training.rounds for c in done})
    probes = plan.world.probes()
    _check_probes(tables["probes"], plan, probes)
    _check_answers(tables["responses"], plan, answered(probes))
    _check_likelihoods(tables["likelihoods"], plan, {cell.response_key for cell in done if cell.likelihoods})
    _check_verdicts(tables["verdicts"], plan, probes, {cell.response_key for cell in done})
    return [cell for cell in plan.cells if cell.cell_key in claimed]


def check_forms(tables: Tables, extents: Extents) -> None:
    """Refuse rows with a text where the suite publishes its digest, or with a digest where it publishes the text.

    Args:
        tables: The claimed rows.
        extents: What is published of each set of probes.

    Raises:
        ClaimError: There is such a row; names its probe.
    """
    for name, rows in tables.items():
        if problem := find_misplaced(name, rows, extents):
            raise ClaimError(f"{problem}; write the bundle with `fedsafety submit` of this release")


def check_extent(rows: Sequence[Mapping[str, Any]], suite: Suite) -> None:
    """Refuse rows that no plan of the suite has, before a plan is made of what they name.

    Raises:
        ClaimError: A row is of a seed that the suite does not have, or there are too many compositions.
    """
    foreign = sorted({row["seed"] for row in rows} - seeds_of(suite))
    if foreign:
        raise ClaimError(f"there are rows of seed {foreign[0]}, which suite {suite.id!r} does not have; leave them out")
    pipelines = {row["defense"] for row in rows}
    if len(pipelines) > MAX_PIPELINES or any(len(name) > MAX_NAME for name in pipelines):
        raise ClaimError(
            f"there are rows of {len(pipelines)} defenses and compositions; {MAX_PIPELINES} are allowed, with names of "
            f"up to {MAX_NAME} characters"
        )


MAX_PIPELINES = 64
MAX_NAME = 400
_MAX_ENVIRONMENT = 8000


def _check_cell(plan: Plan, planned: Mapping[str, CellPlan], row: Mapping[str, Any]) -> None:
    name = f"{row['scenario']} / {row['stage']} / seed {row['seed']}"
    if row["origin"] != ORIGIN_LOCAL:
        raise ClaimError(f"the row of {name} calls itself {row['origin']}; rows of a submission are of its own runs")
    if row["cell_key"] not in planned:
        raise ClaimError(
            f"the row of {name} has a key that the bundle's source does not have under this protocol and suite: it was "
            f"made by another version of the method, of the suite or of the benchmark"
        )
    _check_environment(name, row["environment"])
    cell = planned[row["cell_key"]]
    for column, value in planned_columns(plan, cell).items():
        if row[column] != value:
            raise ClaimError(f"the row of {name} says {column} = {row[column]!r}; by its key it is {value!r}")
    if (row["status"] == STATUS_NOT_APPLICABLE) != bool(cell.not_applicable):
        raise ClaimError(f"the row of {name} has status {row['status']!r}, which its shape rules out")
    expected = "" if row["status"] == STATUS_DONE else cell.not_applicable or row["reason"]
    if row["reason"] != expected:
        raise ClaimError(f"the row of {name} gives the reason {row['reason']!r}; expected was {expected!r}")


def _check_environment(name: str, text: str) -> None:
    try:
        usable = len(text) <= _MAX_ENVIRONMENT and isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        usable = False
    if not usable:
        raise ClaimError(f"the row of {name} has an environment that is no short JSON object, as runs write them")


def _check_keys(name: str, column: str, rows: pa.Table, expected: Collection[str]) -> None:
    found = set(rows.column(column).to_pylist())
    if foreign := sorted(found - set(expected)):
        raise ClaimError(f"table {name!r} holds rows of {column} {foreign[0]!r}, which no claimed cell has")
    if missing := sorted(set(expected) - found):
        raise ClaimError(f"table {name!r} lacks the rows of {column} {missing[0]!r}, which a finished cell has")


def _check_rounds(rows: pa.Table, rounds: Mapping[str, int]) -> None:
    numbers: dict[str, list[int]] = defaultdict(list)
    for row in rows.to_pylist():
        numbers[row["training_key"]].append(row["round"])
        weights = [] if row["weights"] is None else [row["weights"]]
        lists = [row[name] for name in ("malicious", "norms", "losses")] + weights
        possible = all(math.isfinite(weight) and weight >= 0 for each in weights for weight in each)
        if any(len(each) != len(row["clients"]) for each in lists) or not possible:
            raise ClaimError(
                f"round {row['round']} of training {row['training_key']!r} does not have one possible value for each "
                f"of its clients"
            )
    for key, found in sorted(numbers.items()):
        if sorted(found) != list(range(rounds[key])):
            raise ClaimError(f"training {key!r} has rounds {sorted(found)[:5]}…; the suite has {rounds[key]}, from 0")


def _check_probes(rows: pa.Table, plan: Plan, probes: Collection[Probe]) -> None:
    # Digests stand for the texts on both sides; check_forms compares which rows hold texts.
    expected = {
        probe.id: (
            *(plan.probe_set, probe.kind.value, probe.stratum, probe.scored),
            *map(withheld, (probe.instruction, probe.reference)),
        )
        for probe in probes
    }
    columns = ("probe_set", "kind", "stratum", "scored")
    found = {
        row["probe_id"]: (
            *(row[column] for column in columns),
            *map(withheld, (row["instruction"], row["reference"])),
        )
        for row in rows.to_pylist()
    }
    if found != expected or len(rows) != len(expected):
        odd = next((key for key in sorted(found.keys() | expected.keys()) if found.get(key) != expected.get(key)), "")
        raise ClaimError(f"the probes are not those of the suite: {odd or 'some are there twice'}")


def _check_answers(rows: pa.Table, plan: Plan, probes: Collection[Probe]) -> None:
    expected = Counter(probe.id for probe in probes)
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows.select(["response_key", "probe_id", "probe_set", "generator"]).to_pylist():
        found[row["response_key"]][row["probe_id"]] += 1
        if row["probe_set"] != plan.probe_set or not row["generator"].startswith(plan.generator):
            raise ClaimError(
                f"the answer of {row['response_key']!r} to {row['probe_id']!r} is to probe set {row['probe_set']!r} by "
                f"{row['generator']!r}; by its key it is to {plan.probe_set!r} by {plan.generator}"
            )
    for key, counts in sorted(found.items()):
        if counts != expected:
            odd = next(probe for probe in sorted(counts | expected) if counts[probe] != expected[probe])
            raise ClaimError(f"response set {key!r} has {counts[odd]} answers to probe {odd!r}, not {expected[odd]}")


def _check_likelihoods(rows: pa.Table, plan: Plan, response_keys: Collection[str]) -> None:
    _check_keys("likelihoods", "response_key", rows, response_keys)
    openings = plan.world.refusal_openings
    expected = Counter(
        (key, probe.id, each.role, each.index)
        for probe in (plan.world.probes() if response_keys else ())
        for each in continuations(probe, openings)
        for key in response_keys
    )
    columns = ("response_key", "probe_id", "role", "index")
    found = Counter(zip(*(rows.column(column).to_pylist() for column in columns), strict=True))
    if found != expected:
        odd = next(name for name in sorted(found | expected) if found[name] != expected[name])
        raise ClaimError(
            f"there are {found[odd]} likelihoods of {odd[2]} {odd[3]} after {odd[1]!r} of {odd[0]!r}, not "
            f"{expected[odd]}"
        )


def _check_verdicts(rows: pa.Table, plan: Plan, probes: Collection[Probe], response_keys: Collection[str]) -> None:
    expected = Counter(
        (key, judge, probe.id)
        for judge in plan.suite.judges
        for probe in probes
        if probe.kind in judges.get(judge).info.judges
        for key in response_keys
    )
    columns = ("response_key", "judge", "probe_id")
    found = Counter(zip(*(rows.column(column).to_pylist() for column in columns), strict=True))
    if found != expected:
        odd = next(name for name in sorted(found | expected) if found[name] != expected[name])
        raise ClaimError(
            f"there are {found[odd]} verdicts of {odd[1]!r} on {odd[2]!r} of {odd[0]!r}, not {expected[odd]}"
        )
