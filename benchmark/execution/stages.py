"""Stages of a run: check, align, train, answer, settle, judge, report.

Each stage does only missing work, so a run can resume.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from benchmark.execution.alignment import prepare_start, start_is_ready
from benchmark.execution.answering import answer
from benchmark.execution.catalog import write_catalog
from benchmark.execution.cell_rows import CellRows
from benchmark.execution.input_rows import write_inputs
from benchmark.execution.job import run_job, training_is_stored
from benchmark.execution.job_memory import JobMemory
from benchmark.execution.judging import Judging, judge_responses
from benchmark.execution.outcome import Failures, Outcome, State, answers_are_stored, outcome_of
from benchmark.execution.plan import Plan, TrainingJob
from benchmark.execution.prepared import aligning_entry, lacking, make_prepared
from benchmark.execution.prompts import check_prompts
from benchmark.execution.readiness import check_inputs
from benchmark.execution.run import Run, usable_cores
from benchmark.execution.sharing import Sharing, readers, shares_of_work
from benchmark.execution.stored import check_stored
from benchmark.execution.worker import Workers
from benchmark.records.adapters import adapter_is_complete
from benchmark.records.environment import environment
from benchmark.records.store import Store

Outcomes = Mapping[str, Outcome]
"""Outcome of every cell of a plan, by cell key."""


@dataclass(frozen=True)
class RunReport:
    """Result of a run.

    Attributes:
        cells: Number of cells of the plan.
        not_applicable: Number of cells whose shape breaks a rule's condition.
        failed_cells: ``scenario / defense / seed`` of failed cells with the reason.
    """

    cells: int
    not_applicable: int
    failed_cells: tuple[tuple[str, str], ...]


def run_plan(run: Run) -> RunReport:
    """Do everything that the store lacks of a plan.

    Raises:
        InputsMissingError: A model or data set of the plan is not available.
        FedSafetyError: The store cannot be written, or the engine fails its canary.
        KeyboardInterrupt: After the workers have stopped; finished work stays.
    """
    check(run)
    align(run)
    failures = train(run)
    failures |= answer(run, failures)
    outcomes = settle(run, failures)
    judge(run, [cell.response_key for cell in run.plan.cells if outcomes[cell.cell_key].state is State.DONE])
    return report(run.plan, outcomes)


def check(run: Run) -> None:
    """Check that the inputs of a plan are available, and prepare process and store, before anything is trained."""
    # Training processes have threads of their own. With a tiny model more threads than one only wait for each other.
    torch.set_num_threads(usable_cores() if run.plan.world.models_are_large else 1)
    # Read the environment before the work starts, so that the rows name the source that did the work.
    environment()
    check_inputs(run.plan)
    check_prompts(run.plan)
    run.store.clear_scratch()
    check_stored(run.plan, run.store)
    write_catalog(run.plan, run.store)


def align(run: Run) -> None:
    """Make the aligned starts that the store lacks, in worker processes, and check the refusals that the suite expects.

    Raises:
        FedSafetyError: The start cannot be used, or refuses too little or too much.
    """
    suite, pending = run.plan.suite, pending_jobs(run.plan, run.store)
    if not any(suite.aligned(job.scenario) for job in pending):
        return
    if not start_is_ready(suite, run.store):
        task = partial(prepare_start, suite, run.store.root)
        with Workers(1, run.strangers) as workers, run.reporter.step("alignment of the start model", 1) as step:
            for _ in workers.run({"the alignment of the start model": task}):
                step.advance()
    align_by_defenses(run, pending)


def align_by_defenses(run: Run, pending: Sequence[TrainingJob]) -> None:
    """Make the starts by defenses in the place of the alignment that the store lacks, in worker processes."""
    suite = run.plan.suite
    jobs = lacking(suite, pending, run.store).values()
    tasks = {
        f"the alignment by {entry.info.id}": partial(make_prepared, suite, job, run.store.root)
        for job in jobs
        if (entry := aligning_entry(suite, job))
    }
    if tasks:
        title = "alignment by defenses"
        with (
            Workers(min(run.workers, len(tasks)), run.strangers) as workers,
            run.reporter.step(title, len(tasks)) as step,
        ):
            for _ in workers.run(tasks):
                step.advance()


def train(run: Run) -> dict[str, str]:
    """Run the jobs that the store lacks in worker processes; return the reasons of failures by adapter key."""
    plan, jobs = run.plan, pending_jobs(run.plan, run.store)
    memory = JobMemory(plan, jobs, run.store, run.remembered_bytes)
    reusing = readers(memory.sharers)
    stored = [job.training_key for job in jobs if training_is_stored(run.store, job.training_key)]
    sharing = Sharing.of(jobs, plan.suite, reusing, stored)
    run.reporter.say(f"{len(plan.cells)} cells; {len(jobs)} of {len(plan.jobs)} trainings to do{sharing.remark}")
    failures: dict[str, str] = {}
    if jobs:
        tasks = {_name(job): partial(run_job, plan.suite, job, run.store.root, memory=memory.of(job)) for job in jobs}
        groups = {_name(job): job.local_key for job in memory.sharers}
        shares = shares_of_work(jobs, plan.suite, reusing)
        with (
            Workers(min(run.workers, len(jobs)), run.strangers) as workers,
            run.reporter.step("training", len(jobs)) as step,
        ):
            for job_report in workers.run(tasks, groups):
                memory.settle(job_report)
                failures |= job_report.failures
                step.advance(share=shares[job_report.training_key])
    memory.close()
    return failures


def settle(run: Run, failures: Failures) -> Outcomes:
    """Decide the outcome of every cell, write the rows of inputs and cells, and return the outcomes.

    Args:
        run: The run, whose cells are answered unless they failed.
        failures: Failures of trainings and of defenses that serve.
    """
    outcomes = {cell.cell_key: outcome_of(cell, run.store, failures) for cell in run.plan.cells}
    done = [cell for cell in run.plan.cells if outcomes[cell.cell_key].state is State.DONE]
    for remark in write_inputs(run.plan, done, run.store):
        run.reporter.say(remark)
    rows = CellRows(run.plan, run.store)
    for cell in run.plan.cells:
        rows.settle(cell, outcomes[cell.cell_key])
    return outcomes


def judge(run: Run, response_keys: Sequence[str]) -> None:
    """Write the verdicts that the suite's judges lack; leave out a judge that does not fit into memory."""
    suite = run.plan.suite
    judging = Judging(run.plan.world, run.store, run.engine, run.reporter, suite.compute, leaves_out_too_large=True)
    judge_responses(judging, response_keys, suite.judges)


def report(plan: Plan, outcomes: Outcomes) -> RunReport:
    """Return the numbers of cells by outcome, and the failed cells with their reasons."""
    failed = tuple(
        (f"{cell.scenario.id} / {cell.stage.name} / seed {cell.seed}", outcome.reason)
        for cell in plan.cells
        if (outcome := outcomes[cell.cell_key]).state is State.FAILED
    )
    skipped = sum(outcome.state is State.NOT_APPLICABLE for outcome in outcomes.values())
    return RunReport(len(plan.cells), skipped, failed)


def pending_jobs(plan: Plan, store: Store) -> list[TrainingJob]:
    """Return the jobs of which the store lacks the training, or an adapter that an unsettled cell needs."""
    unsettled = {
        cell.adapter_key
        for cell in plan.cells
        if not (store.has("cells", cell.cell_key) and answers_are_stored(cell, store))
    }
    return [job for job in plan.jobs if not _job_is_done(store, job, unsettled)]


def _job_is_done(store: Store, job: TrainingJob, unsettled: set[str]) -> bool:
    """Return whether the training is recorded and every unsettled cell has its adapter; settled cells need none."""
    missing = [key for key in job.pipelines if key in unsettled and not adapter_is_complete(store, key)]
    return store.has("rounds", job.training_key) and not missing


def _name(job: TrainingJob) -> str:
    return f"scenario {job.scenario.id!r}, seed {job.seed}, training {job.training_key}"
