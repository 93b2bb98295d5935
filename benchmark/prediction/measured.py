"""Time that a plan will take on this machine, measured on samples of its work before it starts.

Training time is linear in rounds, and the time of answering and judging is linear in response sets. Each slope is
measured on small samples that run through the code of a real run, as many at once as the run has workers. The samples
are not stored.
"""

from __future__ import annotations

import io
import statistics
import tempfile
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from functools import partial
from pathlib import Path

from rich.console import Console

from benchmark.errors import FedSafetyError
from benchmark.execution.alignment import copy_starts
from benchmark.execution.answering import answer
from benchmark.execution.bench import Bench
from benchmark.execution.job import run_job
from benchmark.execution.judging import Judging, judge_responses
from benchmark.execution.outcome import answers_are_stored
from benchmark.execution.plan import TrainingJob, make_plan
from benchmark.execution.run import Run
from benchmark.execution.sharing import Sharing, readers
from benchmark.execution.stages import align, pending_jobs, settle
from benchmark.execution.worker import Workers
from benchmark.progress import Reporter
from benchmark.records.store import Store
from benchmark.suites.scenario import TrainingChanges
from benchmark.suites.suite import Scenario, Suite

_SHORT, _LONG = 2, 8
"""Rounds of the two sample trainings whose difference is the price of a round."""
_FEW, _MANY = 1, 9
"""Response sets of the two samples whose difference is the price of a set."""
_SAMPLE_SEEDS = (10**6, 10**6 + 1)
"""Seeds that no suite scores; the seeds of the sample answers follow them."""


@dataclass(frozen=True)
class Prediction:
    """Remaining work and time of a plan.

    Attributes:
        trainings: Federated trainings to do.
        adapters: Adapters to derive from trained ones (post-hoc stages).
        response_sets: Response sets to generate and judge.
        training_seconds: Wall time of trainings and derived adapters, all workers together.
        answering_seconds: Wall time of generation and judging, engine starts included.
        sharing: Trainings by their local training. The time of a round that several trainings share counts once.
    """

    trainings: int
    adapters: int
    response_sets: int
    training_seconds: float
    answering_seconds: float
    sharing: Sharing | None = None

    @property
    def seconds(self) -> float:
        """Wall time in all."""
        return self.training_seconds + self.answering_seconds


Shape = tuple[str, int, int, str, TrainingChanges]
"""Properties that decide the price of a job: starting model, participants, clients, attack, local training."""


@dataclass(frozen=True)
class JobCost:
    """Seconds of one process for a scenario's jobs.

    Attributes:
        data: Making all clients' rows, once for each seed.
        fixed: A training without its rounds.
        round: A round.
        adapter: Making a derived adapter.
    """

    data: float
    fixed: float
    round: float
    adapter: float


def predict(run: Run) -> Prediction:
    """Measure samples of a run's remaining work for one or two minutes and return the prediction.

    The aligned start of a suite that aligns its start model is made before, and the run's store keeps it.

    Raises:
        FedSafetyError: A sample fails, as the run would.
    """
    plan, store = run.plan, run.store
    jobs = pending_jobs(plan, store)
    starts = {
        cell.response_key: cell.scenario.start
        for cell in plan.cells
        if cell.runs and not answers_are_stored(cell, store)
    }
    adapters = sum(len(job.pipelines.keys() - {job.training_key}) for job in jobs)
    align(run)
    training = _training_seconds(run, jobs) if jobs else 0.0
    answering = _answering_seconds(run, list(starts.values())) if starts else 0.0
    reusing = readers(jobs) if run.remembered_bytes else ()
    sharing = Sharing.of(jobs, plan.suite, reusing) if jobs else None
    return Prediction(len(jobs), adapters, len(starts), training, answering, sharing)


def _training_seconds(run: Run, jobs: Sequence[TrainingJob]) -> float:
    suite = run.plan.suite
    # The job with the most derived adapters of each shape stands for all of them.
    samples = {_shape(job.scenario): job for job in sorted(jobs, key=lambda job: len(job.pipelines))}
    workers = min(run.workers, len(jobs))
    began = time.perf_counter()
    costs: dict[Shape, JobCost] = {}
    with (
        Workers(workers, run.strangers) as processes,
        run.reporter.step("timing sample trainings", len(samples)) as step,
    ):
        processes.each("its start", _idle)
        starting = time.perf_counter() - began
        for shape, job in samples.items():
            # As many at once as in the run, since processes share memory bandwidth and caches.
            measured = processes.each(f"scenario {job.scenario.id!r}", partial(_job_cost, suite, job, run.store))
            costs[shape] = JobCost(*(statistics.fmean(values) for values in zip(*map(astuple, measured), strict=True)))
            step.advance()
    shared = readers(jobs) if run.remembered_bytes else frozenset[str]()
    return starting + job_seconds(suite, jobs, costs, workers, shared)


def job_seconds(
    suite: Suite,
    jobs: Sequence[TrainingJob],
    costs: Mapping[Shape, JobCost],
    workers: int,
    reusing: Collection[str] = (),
) -> float:
    """Return the wall time of ``jobs`` on ``workers`` processes, at the price of their shapes.

    Args:
        suite: Their suite.
        jobs: The jobs.
        costs: Price of each shape.
        workers: Number of processes.
        reusing: Training keys of the jobs that reuse the first round of another; these follow it.
    """
    total = 0.0
    chains: dict[str, float] = {}  # jobs that share a round: the first one alone, then the others on all processes
    for job in jobs:
        cost, reuses = costs[_shape(job.scenario)], job.training_key in reusing
        derived = job.pipelines.keys() - {job.training_key}
        own_rounds = suite.under(job.scenario).training.rounds - reuses + sum(job.reattacks.values())
        seconds = cost.fixed + cost.round * own_rounds + cost.adapter * len(derived)
        total += seconds
        chain = chains.get(job.local_key, 0.0)
        chains[job.local_key] = chain + seconds / workers if reuses else max(chain, seconds)
    data = [costs[shape].data for shape in {(job.scenario.id, job.seed): _shape(job.scenario) for job in jobs}.values()]
    # Every process makes the rows of the jobs that it takes. Jobs that share a round keep to one process until the end.
    total += sum(data) + (workers - 1) * max(data, default=0.0) if reusing else sum(data) * workers
    return max(total / workers, max(chains.values(), default=0.0))


def _shape(scenario: Scenario) -> Shape:
    training = _unchanged_rounds(scenario).training
    return scenario.start, scenario.participants, scenario.clients, scenario.attack.id, training


def _idle(_: Bench) -> None:
    """Do nothing. A worker process that answers has imported everything."""


def _job_cost(suite: Suite, job: TrainingJob, store: Store, bench: Bench) -> JobCost:
    """Time sample jobs in this process. The first job is not counted because it also opens models."""
    first = next(iter(job.pipelines.values()))
    derived = [name for key, name in job.pipelines.items() if key != job.training_key][:1]

    def seconds(rounds: int, seed: int, names: Sequence[str]) -> float:
        pipelines = {"training": first} | {f"adapter{index}": name for index, name in enumerate(names)}
        with tempfile.TemporaryDirectory() as folder:
            copy_starts(store, Path(folder))
            began = time.perf_counter()
            report = run_job(
                _shortened(suite, rounds),
                TrainingJob(_unchanged_rounds(job.scenario), seed, "training", pipelines),
                Path(folder),
                bench,
            )
            spent = time.perf_counter() - began
        for reason in report.failures.values():
            raise FedSafetyError(f"a sample training of scenario {job.scenario.id!r} failed: {reason}")
        return spent

    seconds(_SHORT, _SAMPLE_SEEDS[0], derived)
    short, longer = (seconds(rounds, _SAMPLE_SEEDS[0], ()) for rounds in (_SHORT, _LONG))
    fresh, repaired = (seconds(_SHORT, _SAMPLE_SEEDS[1], names) for names in ((), derived))
    price = max(0.0, longer - short) / (_LONG - _SHORT)
    return JobCost(
        data=max(0.0, fresh - short),
        fixed=max(0.0, short - price * _SHORT),
        round=price,
        adapter=max(0.0, repaired - short),
    )


def _answering_seconds(run: Run, starts: Sequence[str]) -> float:
    """Return the wall time of answering and judging; ``starts`` names the starting model of every response set."""
    plan, distinct = run.plan, sorted(set(starts))
    start = max(distinct, key=starts.count)
    candidates = [c for c in plan.cells if c.scenario.start == start and c.runs]
    # Prefer a pipeline that does not serve, because a serving defense may answer in the model's place at no cost.
    cell = min(candidates, key=lambda c: bool(c.pipeline.servers))
    scenario, pipeline = cell.scenario, cell.pipeline.name
    suite = _shortened(plan.suite, 1)
    spent = []
    with tempfile.TemporaryDirectory() as folder, run.reporter.step("timing sample answers", 2) as step:
        store = Store(Path(folder))
        copy_starts(run.store, store.root)
        silent = Reporter(Console(file=io.StringIO()))
        bench = Bench()
        for count in (_FEW, _MANY):
            # Each sample has its own seeds. Otherwise the store would already have a set of the second sample.
            seeds = range(_SAMPLE_SEEDS[-1] + count, _SAMPLE_SEEDS[-1] + 2 * count)
            sample = make_plan(suite, plan.generator, scenarios=[scenario.id], pipelines=[pipeline], seeds=seeds)
            cells = tuple(cell for cell in sample.cells if cell.scenario.id == scenario.id)
            sample = replace(sample, cells=cells)
            for job in sample.jobs:
                run_job(suite, job, store.root, bench)
            began = time.perf_counter()
            sample_run = Run(sample, store, run.engine, silent)
            settle(sample_run, answer(sample_run))
            judging = Judging(plan.world, store, run.engine, silent, suite.compute)
            judge_responses(judging, (cell.response_key for cell in cells), suite.judges)
            spent.append(time.perf_counter() - began)
            step.advance()
    price = max(0.0, spent[1] - spent[0]) / (_MANY - _FEW)
    return max(0.0, spent[0] - price * _FEW) * len(distinct) + price * len(starts)


def _shortened(suite: Suite, rounds: int) -> Suite:
    """Return the suite with so many rounds in every scenario of its ranking."""
    return suite.model_copy(
        update={
            "training": suite.training.model_copy(update={"rounds": rounds}),
            "scenarios": tuple(map(_unchanged_rounds, suite.scenarios)),
        }
    )


def _unchanged_rounds(scenario: Scenario) -> Scenario:
    """Return the scenario with the suite's number of rounds."""
    return scenario.model_copy(update={"training": scenario.training.model_copy(update={"rounds": None})})
