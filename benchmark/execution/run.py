"""Running a plan: train, answer, judge. Each stage does only what is missing, so the same command resumes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch

from benchmark.execution.answering import check_prompts, evaluate
from benchmark.execution.catalog import write_catalog
from benchmark.execution.job import run_job
from benchmark.execution.judging import judge_responses
from benchmark.execution.plan import Plan, TrainingJob
from benchmark.execution.readiness import check_inputs
from benchmark.execution.worker import Workers
from benchmark.generation.select import EngineChoice
from benchmark.methods.source import Submission
from benchmark.progress import Reporter
from benchmark.records.adapters import adapter_is_complete
from benchmark.records.environment import environment
from benchmark.records.store import Store
from benchmark.sandbox.adopt import Strangers


@dataclass(frozen=True)
class RunReport:
    """How a run ended.

    Attributes:
        cells: Cells of the plan.
        not_applicable: Cells whose shape breaks a rule's condition.
        failed_cells: ``scenario / defense / seed`` of failed cells with the reason.
    """

    cells: int
    not_applicable: int
    failed_cells: tuple[tuple[str, str], ...]


def run_plan(
    plan: Plan,
    store: Store,
    choice: EngineChoice,
    reporter: Reporter,
    workers: int,
    submissions: Sequence[Submission] = (),
    isolated: bool = False,
    isolation: str = "auto",
) -> RunReport:
    """Do whatever the plan still lacks.

    Args:
        plan: The cells.
        store: Where artefacts are looked for and written.
        choice: The generation engine.
        reporter: Shows progress.
        workers: Training processes, one thread each.
        submissions: Methods of the plan that this process has adopted, for the training processes to adopt, too.
        isolated: Whether their code runs in sandboxes. One that ends its process then fails its own cells; in a
            training process it would stop the run.
        isolation: Name of the way in which it is isolated; ``auto`` for the best that this machine offers.

    Raises:
        InputsMissingError: A model or data set that the plan needs cannot be had.
        FedSafetyError: The store cannot be written, or the engine fails its canary.
        KeyboardInterrupt: After the workers have stopped; what is finished stays.
    """
    # One thread: with a tiny model more threads only wait for each other, and results do not depend on the machine.
    torch.set_num_threads(1)
    # Looked up before anything runs, so that the rows name the source that did the work.
    environment()
    check_inputs(plan)
    check_prompts(plan)
    store.clear_scratch()
    write_catalog(plan, store)
    pending = pending_jobs(plan, store)
    reporter.say(f"{len(plan.cells)} cells; {len(pending)} of {len(plan.jobs)} trainings to do")
    strangers = Strangers(tuple(submissions), isolated, isolation)
    failures = _train(plan, pending, store, reporter, workers, strangers) if pending else {}
    refused = evaluate(plan, store, choice, reporter, failures)
    reasons = {
        c.cell_key: c.broken or failures.get(c.adapter_key) or refused[c.response_key]
        for c in plan.cells
        if not c.not_applicable and (c.broken or c.adapter_key in failures or c.response_key in refused)
    }
    done = [c for c in plan.cells if c.runs and c.cell_key not in reasons]
    suite = plan.suite
    judge_responses(
        (c.response_key for c in done),
        suite.judges,
        plan.world,
        store,
        choice,
        reporter,
        suite.compute,
        leave_out_too_large=True,
    )
    failed = tuple(
        (f"{c.scenario.id} / {c.stage.name} / seed {c.seed}", reasons[c.cell_key])
        for c in plan.cells
        if c.cell_key in reasons
    )
    skipped = sum(1 for c in plan.cells if c.not_applicable)
    return RunReport(len(plan.cells), skipped, failed)


def pending_jobs(plan: Plan, store: Store) -> list[TrainingJob]:
    """Return the jobs of which the store lacks the training, or an adapter that an unsettled cell needs."""
    unsettled = {
        cell.adapter_key
        for cell in plan.cells
        if not (store.has("cells", cell.cell_key) and store.has("responses", cell.response_key))
    }
    return [job for job in plan.jobs if not _job_is_done(store, job, unsettled)]


def default_workers() -> int:
    """Return how many processors this process may use; one where training uses a GPU, which it fills alone."""
    if torch.cuda.is_available():
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _job_is_done(store: Store, job: TrainingJob, unsettled: set[str]) -> bool:
    """Whether the training is recorded and no unsettled cell lacks its adapter (settled ones need none any more)."""
    missing = [key for key in job.pipelines if key in unsettled and not adapter_is_complete(store, key)]
    return store.has("rounds", job.training_key) and not missing


def _train(
    plan: Plan, jobs: list[TrainingJob], store: Store, reporter: Reporter, workers: int, strangers: Strangers
) -> dict[str, str]:
    """Run the jobs in worker processes; return the reasons of failures by adapter key."""
    failures: dict[str, str] = {}
    tasks = {_name(job): partial(run_job, plan.suite, job, store.root) for job in jobs}
    with Workers(min(workers, len(jobs)), strangers) as processes, reporter.step("training", len(jobs)) as step:
        for report in processes.run(tasks):
            failures |= report.failures
            step.advance()
    return failures


def _name(job: TrainingJob) -> str:
    return f"scenario {job.scenario.id!r}, seed {job.seed}, training {job.training_key}"
