"""Re-run of claimed cells: their choice, and isolated runs on the committed probes and on fresh probes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from benchmark.errors import FedSafetyError, UsageError
from benchmark.execution.plan import CellPlan, Plan, make_plan
from benchmark.execution.run import Run
from benchmark.execution.stages import run_plan
from benchmark.execution.worlds import open_fresh
from benchmark.generation.select import EngineChoice
from benchmark.methods.kinds import base_scenario
from benchmark.methods.source import MethodSource
from benchmark.progress import Reporter
from benchmark.records.schemas import STATUS_DONE
from benchmark.records.store import Store
from benchmark.sandbox.adopt import Strangers
from benchmark.submission.verify.consistency import Verdicts
from benchmark.suites.suite import Suite
from tasks.base import Probe, TaskWorld

Unit = tuple[str, str, int]
"""Scenario, pipeline and seed, whose stages are run again together."""


class FreshWorld(Protocol):
    """Method of the sibling ``<id>_fresh`` of a task world ``<id>``, beside the methods of every world."""

    def item_of(self, probe: Probe) -> str:
        """Return the item of a probe, fresh or committed; answers to probes about one item are alike."""
        ...


class RerunError(FedSafetyError):
    """The re-run did not end as the claimed rows did."""


def fresh_world(suite: Suite, seed: int) -> tuple[TaskWorld, Callable[[Probe], str]]:
    """Return a suite's world with probes drawn from ``seed``, and a function that returns the item of a probe.

    Raises:
        UsageError: The world has no sibling that draws fresh probes, or the suite names no source of them.
    """
    world: Any = open_fresh(suite, seed)
    if world is None:
        raise UsageError(
            f"task world {suite.world!r} has no sibling '{suite.world}_fresh' that draws fresh probes, so its suites "
            f"can be verified up to level checked only; add such a world"
        )
    return world, world.item_of


def draw_sample(cells: Iterable[CellPlan], count: int, rng: np.random.Generator) -> list[Unit]:
    """Return about ``count`` units of the finished ``cells``, drawn so that attacked scenarios and twins occur.

    One attacked scenario is drawn with two of its seeds, where it has two, then others with one. Each unit brings its
    un-attacked twin of the same seed and pipeline, if the twin is among the cells.

    Args:
        cells: Cells that ended as claimed.
        count: Units to draw. An attacked unit and its twin are drawn together, even if ``count`` is 1.
        rng: Stream to draw from.
    """
    by_unit: dict[Unit, CellPlan] = {}
    for cell in cells:
        by_unit.setdefault((cell.scenario.id, cell.pipeline.name, cell.seed), cell)
    attacked = sorted(unit for unit, cell in by_unit.items() if cell.scenario.attacked)
    order = [attacked[index] for index in rng.permutation(len(attacked)).tolist()]
    if order:
        alike = [unit for unit in order[1:] if unit[:2] == order[0][:2]]
        order = [order[0], *alike[:1], *(unit for unit in order[1:] if unit not in alike[:1])]
    rest = sorted(by_unit.keys() - set(attacked))
    order += [rest[index] for index in rng.permutation(len(rest)).tolist()]
    drawn: dict[Unit, None] = {}
    for unit in order:
        if len(drawn) >= count:
            break
        drawn[unit] = None
        twin = (by_unit[unit].scenario.twin, *unit[1:])
        if twin in by_unit:
            drawn[twin] = None
    return list(drawn)


@dataclass(frozen=True)
class Rerun:
    """Cells that were run again, with their rows.

    Attributes:
        plan: The cells on one probe set.
        cells: Row of table ``cells`` by cell key.
        responses: Answer by probe id, by response key.
        verdicts: Verdict of the primary judge by probe id, by response key.
    """

    plan: Plan
    cells: Mapping[str, Mapping[str, Any]]
    responses: Mapping[str, Mapping[str, str]]
    verdicts: Mapping[str, Verdicts]


@dataclass(frozen=True)
class Runner:
    """Runs plans in a verifier's own store.

    Attributes:
        store: Store of adapters and rows; a verification that is started again continues from it.
        choice: Generation engine.
        reporter: Shows progress.
        workers: Training processes.
        submission: The submitted method; this process has adopted its stand-in.
        isolation: Name of the way of isolating its code.
    """

    store: Store
    choice: EngineChoice
    reporter: Reporter
    workers: int
    submission: MethodSource
    isolation: str

    def run(self, *plans: Plan) -> list[Rerun]:
        """Run the cells that the store lacks, and return the re-run of each plan.

        The plans have one suite and world. The submission's code runs isolated.
        """
        first = plans[0]
        cells = {cell.cell_key: cell for plan in plans for cell in plan.cells}
        whole = replace(first, cells=tuple(cells.values()))
        strangers = Strangers((self.submission,), isolated=True, isolation=self.isolation)
        run_plan(Run(whole, self.store, self.choice, self.reporter, self.workers, strangers))
        return [self._outcome(plan) for plan in plans]

    def _outcome(self, plan: Plan) -> Rerun:
        rows = {cell.cell_key: self.store.read("cells", cell.cell_key).to_pylist()[0] for cell in plan.cells}
        done = {cell.response_key for cell in plan.cells if rows[cell.cell_key]["status"] == STATUS_DONE}
        responses = {}
        for key in sorted(done):
            table = self.store.read("responses", key)
            responses[key] = dict(zip(table["probe_id"].to_pylist(), table["response"].to_pylist(), strict=True))
        return Rerun(plan, rows, responses, stored_verdicts(self.store, plan.suite.primary_judge, done))


def stored_verdicts(store: Store, judge: str, response_keys: Iterable[str]) -> dict[str, Verdicts]:
    """Return one judge's verdicts by probe id, by response key."""
    selected = set(response_keys)
    found: dict[str, Verdicts] = {}
    for key in sorted(store.keys("verdicts")):
        response_key, _, rest = key.partition("-")
        if response_key in selected and rest.rpartition("-")[0] == judge:
            table = store.read("verdicts", key)
            found[response_key] = dict(zip(table["probe_id"].to_pylist(), table["verdict"].to_pylist(), strict=True))
    return found


def part_of(plan: Plan, units: Iterable[Unit]) -> Plan:
    """Return the cells of a plan that belong to ``units``."""
    selected = set(units)
    return replace(plan, cells=tuple(c for c in plan.cells if (c.scenario.id, c.pipeline.name, c.seed) in selected))


def on_world(plan: Plan, world: TaskWorld) -> Plan:
    """Return the same cells, and so the same trainings, with the probes of another world."""
    units = {(cell.scenario.id, cell.pipeline.name, cell.stage.name, cell.seed) for cell in plan.cells}
    every = make_plan(
        plan.suite,
        plan.generator,
        scenarios=sorted({cell.scenario.id for cell in plan.cells}),
        pipelines=sorted({cell.pipeline.name for cell in plan.cells}),
        seeds=sorted({cell.seed for cell in plan.cells}),
        world=world,
    )
    cells = [c for c in every.cells if (c.scenario.id, c.pipeline.name, c.stage.name, c.seed) in units]
    return replace(every, cells=tuple(cells))


def reference_plan(plan: Plan, submission: MethodSource) -> tuple[Plan, str]:
    """Return an honest counterpart of each cell of a plan, and its name.

    The counterpart of a defense is the baseline under the same scenarios and seeds. The counterpart of an attack is
    each attack that it replaces, on the same defenses.
    """
    kind = submission.kind
    scenarios = {cell.scenario.id: base_scenario(cell.scenario) for cell in plan.cells}
    units = {(scenarios[c.scenario.id], kind.reference(c.pipeline.name), c.seed) for c in plan.cells}
    every = make_plan(
        plan.suite,
        plan.generator,
        scenarios=sorted(set(scenarios.values())),
        pipelines=sorted({pipeline for _, pipeline, _ in units}),
        seeds=sorted({cell.seed for cell in plan.cells}),
    )
    return part_of(every, units), kind.reference_name(scenarios.values())


def check_endings(claimed: Mapping[str, Mapping[str, Any]], rerun: Rerun) -> None:
    """Compare the status and the costs of claimed cells with the re-run.

    Raises:
        RerunError: A cell that is claimed to be done is not done in the re-run, or costs more than claimed.
    """
    for cell in rerun.plan.cells:
        row, outcome = claimed[cell.cell_key], rerun.cells[cell.cell_key]
        name = f"{cell.scenario.id} / {cell.stage.name} / seed {cell.seed}"
        if row["status"] == STATUS_DONE and outcome["status"] != STATUS_DONE:
            raise RerunError(f"{name} is claimed to be done and ends here as {outcome['status']}: {outcome['reason']}")
        for column in _COSTS if row["status"] == outcome["status"] == STATUS_DONE else ():
            if row[column] < outcome[column]:
                raise RerunError(f"{name} is claimed to use {row[column]} {column}; here it uses {outcome[column]}")


_COSTS: Sequence[str] = (
    "owned_aligned",
    "owned_normal",
    "generated_pairs",
    "finetune_steps",
    "extra_models",
    "upload_bytes",
)
"""Counts that do not depend on rounding."""
