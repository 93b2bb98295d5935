"""Claimed scores beside those of a re-run, cell by cell: on the committed probes, on fresh ones, and of a reference."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from benchmark.errors import FedSafetyError
from benchmark.execution.plan import CellPlan, Plan
from benchmark.methods.kinds import Kind
from benchmark.records.schemas import STATUS_DONE
from benchmark.submission.verify.consistency import (
    SAME_ANSWERS,
    ComparedCell,
    Finding,
    Verdicts,
    find_inconsistencies,
    same_answers,
    scores,
)
from benchmark.submission.verify.report import RerunCell
from benchmark.submission.verify.rerun import (
    Rerun,
    Runner,
    check_endings,
    draw_sample,
    fresh_world,
    on_world,
    part_of,
    reference_plan,
)
from tasks.base import Probe

_DECISIVE = ("python", "packages", "platform", "processor", "training_threads")
"""What of an environment decides how numbers are rounded."""

Rows = Mapping[str, Mapping[str, Any]]
"""Rows of table ``cells`` by cell key."""


@dataclass(frozen=True)
class ClaimedCell:
    """A claimed cell that is done.

    Attributes:
        cell: The cell.
        row: Its claimed row.
        answers: Claimed answers by probe id.
        verdicts: Verdicts of the primary judge, by probe id.
    """

    cell: CellPlan
    row: Mapping[str, Any]
    answers: Mapping[str, str]
    verdicts: Verdicts


@dataclass(frozen=True)
class Repetition:
    """Results of a re-run.

    Attributes:
        cells: Every claimed cell that is done, with what it scored again.
        reference: The same of the reference.
        reference_name: What that is.
        noted: The report's record of each cell that was run again, by cell key.
        probes: The committed probes.
        fresh_probes: The fresh ones.
        item_of: Returns what a probe is about.
        kind: Kind of the submitted method.
    """

    cells: Sequence[ComparedCell]
    reference: Sequence[ComparedCell]
    reference_name: str
    noted: Mapping[str, RerunCell]
    probes: Sequence[Probe]
    fresh_probes: Sequence[Probe]
    item_of: Callable[[Probe], str]
    kind: Kind


def claimed_cells(plan: Plan, rows: Rows, responses: pa.Table, verdicts: pa.Table) -> list[ClaimedCell]:
    """Return the claimed cells that are done, in the order of the plan.

    Args:
        plan: The claimed cells.
        rows: Their rows.
        responses: The claimed answers.
        verdicts: The verdicts on them, by the verifier where the verifier could judge.
    """
    answers: dict[str, dict[str, str]] = {}
    for row in responses.select(["response_key", "probe_id", "response"]).to_pylist():
        answers.setdefault(row["response_key"], {})[row["probe_id"]] = row["response"]
    by_primary: dict[str, dict[str, str]] = {}
    columns = ("judge", "response_key", "probe_id", "verdict")
    for judge, key, probe, verdict in zip(*(verdicts[name].to_pylist() for name in columns), strict=True):
        if judge == plan.suite.primary_judge:
            by_primary.setdefault(key, {})[probe] = verdict
    return [
        ClaimedCell(cell, rows[cell.cell_key], answers[cell.response_key], by_primary[cell.response_key])
        for cell in plan.cells
        if rows[cell.cell_key]["status"] == STATUS_DONE
    ]


def run_again(
    plan: Plan, runner: Runner, claimed: Sequence[ClaimedCell], *, seed: int, units: int, everything: bool
) -> Repetition:
    """Run a sample of claimed cells, or all, on the committed probes; the sample and a reference on fresh ones, too.

    Args:
        plan: The claimed cells.
        runner: Runs them.
        claimed: Those of them that are done.
        seed: Of the sample and of the fresh probes.
        units: Units to sample.
        everything: Whether all cells are run again.

    Raises:
        RerunError: A cell does not end as claimed, or costs more.
        UsageError: The world offers no fresh probes.
    """
    world, item_of = fresh_world(plan.suite, seed)
    sample = part_of(plan, draw_sample((each.cell for each in claimed), units, np.random.default_rng(seed)))
    honest, reference_name = reference_plan(sample, runner.submission)
    rerun, reference_rerun = runner.run(plan if everything else sample, honest)
    check_endings({each.cell.cell_key: each.row for each in claimed}, rerun)
    fresh, reference_fresh = map(_by_name, runner.run(on_world(sample, world), on_world(honest, world)))
    reference = _by_name(reference_rerun)
    compared, noted = [], {}
    probes, fresh_probes = plan.world.probes(), world.probes()
    for each in claimed:
        key, name = each.cell.cell_key, _name(each.cell)
        again = rerun.verdicts[each.cell.response_key] if key in rerun.cells else None
        compared.append(ComparedCell(name, name.rpartition(" / ")[0], each.verdicts, again, fresh.get(name)))
        if again is not None:
            noted[key] = RerunCell(
                scenario=each.cell.scenario.id,
                defense=each.cell.pipeline.name,
                stage=each.cell.stage.name,
                seed=each.cell.seed,
                same_answers=same_answers(each.answers, rerun.responses[each.cell.response_key]),
                same_environment=_rounding(each.row) == _rounding(rerun.cells[key]),
                claimed=scores(probes, each.verdicts),
                rerun=scores(probes, again),
                fresh=scores(fresh_probes, fresh[name]) if name in fresh else {},
            )
    both = sorted(reference.keys() & reference_fresh.keys())
    references = [ComparedCell(name, "", reference[name], None, reference_fresh[name]) for name in both]
    return Repetition(
        compared, references, reference_name, noted, probes, fresh_probes, item_of, runner.submission.kind
    )


def compare(repetition: Repetition) -> list[Finding]:
    """Return every test of claimed against re-run scores.

    Raises:
        FedSafetyError: Answers are others in the very environment that their rows name.
    """
    for cell in repetition.noted.values():
        if cell.same_environment and cell.same_answers < SAME_ANSWERS:
            raise FedSafetyError(
                f"{100 * (1 - cell.same_answers):.1f} % of the claimed answers of {cell.scenario} / {cell.stage} / "
                f"seed {cell.seed} are others here, in the environment that the row names"
            )
    return find_inconsistencies(
        repetition.cells,
        repetition.reference,
        repetition.probes,
        repetition.fresh_probes,
        repetition.item_of,
        repetition.kind.directions,
    )


def _name(cell: CellPlan) -> str:
    return f"{cell.scenario.id} / {cell.pipeline.name} / {cell.stage.name} / seed {cell.seed}"


def _by_name(rerun: Rerun) -> dict[str, Verdicts]:
    return {
        _name(cell): rerun.verdicts[cell.response_key]
        for cell in rerun.plan.cells
        if cell.response_key in rerun.verdicts
    }


def _rounding(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a row's environment decides how numbers are rounded."""
    found = json.loads(row["environment"])
    return {name: found.get(name) for name in _DECISIVE} | {"generator": row["generator"]}
