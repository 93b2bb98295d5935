"""What a plan will cost, before anything is loaded: operations, time, memory and disk, from sizes alone.

Where a suite runs large models, samples of its own work (:mod:`benchmark.prediction.measured`) would take as long as
others' whole runs. This prediction needs no weights and no data: models are known by the sizes that the suite gives or
by a configuration that is here, and everything else is counted from the settings. What it assumes is named in
:data:`ASSUMPTIONS`; the only thing that is measured is how fast this machine multiplies matrices and copies memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from benchmark.errors import FedSafetyError
from benchmark.execution.plan import Plan, TrainingJob
from benchmark.execution.roles import generating_roles, judge_source
from benchmark.execution.worlds import open_chat
from benchmark.generation.needs import AnsweringMemory, Device, answering_memory, judge_too_large, refuse_answering
from benchmark.methods.pipeline import parse_pipeline
from benchmark.models.configuration import Model
from benchmark.prediction.answers import (
    JUDGE_TOKENS,
    PROMPT_TOKENS,
    UNKNOWN_PROBES,
    ProbeSet,
    Reading,
    answering,
    judge_context,
    judging,
    longest_judgement,
    longest_sequence,
    probe_sets,
)
from benchmark.prediction.device import Rate
from benchmark.prediction.memory import TrainingMemory, refuse_training, sampling_memory, training_memory
from benchmark.prediction.roles import find_model
from benchmark.prediction.step import Operations, Step, training_operations
from benchmark.seeds import stream
from benchmark.suites.suite import Scenario, Suite

SHARE = 0.4
"""Assumed share of the measured rates that a run reaches."""

ROW_TOKENS = 512
"""Tokens of a training row where the suite sets no limit and the world's rows cannot be looked at."""

_SAMPLED_ROWS = 64

ASSUMPTIONS = (
    f"prompts of {PROMPT_TOKENS} tokens, answers as long as their limit",
    f"{UNKNOWN_PROBES} probes in a set that is not here and has no limit",
    f"judges' own words of {JUDGE_TOKENS} tokens and answers as long as their limit",
    "memory not counted: models that methods ask without declaring the trait",
    "time not counted: data that attacks and defenses generate, opening models, aggregation",
)


@dataclass(frozen=True)
class JobForecast:
    """One federated training and the adapters that are derived from it.

    Attributes:
        scenario: Id of its scenario.
        seed: Run seed.
        start: Role of its starting model.
        training: Operations of its rounds.
        posthoc: Operations of server-side fine-tuning and of rounds after it.
        adapter_bytes: Bytes on disk of all its adapters.
    """

    scenario: str
    seed: int
    start: str
    training: Operations
    posthoc: Operations
    adapter_bytes: int


@dataclass(frozen=True)
class Forecast:
    """What a plan costs in all, whatever of it is there already.

    Attributes:
        models: By role, those of known size that train, answer, judge or generate data.
        unknown: Roles of unknown size; nothing of theirs is counted.
        jobs: Its trainings.
        training_memory: Peak of training by role of the starting model.
        answering_memory: Need of the answering engine by role.
        answering: Generated answers to all probes.
        judging: Passes of each judge that is a model of known size.
        row_tokens: Tokens of every training row: the limit of the suite, or the longest of a sample.
        device: Where the plan will run.
        rate: What was measured of this machine, or ``None``: then there are no times.
        share: Assumed share of it.
    """

    models: Mapping[str, Model]
    unknown: tuple[str, ...]
    jobs: tuple[JobForecast, ...]
    training_memory: Mapping[str, TrainingMemory]
    answering_memory: Mapping[str, AnsweringMemory]
    answering: Reading
    judging: Mapping[str, Reading]
    row_tokens: int
    device: Device
    rate: Rate | None
    share: float = SHARE

    @cached_property
    def training(self) -> Operations:
        """Operations of all federated trainings."""
        return _sum(job.training for job in self.jobs)

    @cached_property
    def posthoc(self) -> Operations:
        """Operations of everything after the last rounds."""
        return _sum(job.posthoc for job in self.jobs)

    @property
    def adapter_bytes(self) -> int:
        """Bytes on disk of all adapters."""
        return sum(job.adapter_bytes for job in self.jobs)

    def seconds(self, operations: float, traffic: float = 0.0) -> float:
        """Return the time of so many operations and bytes of traffic at the assumed share of the measured rates.

        Raises:
            FedSafetyError: Nothing was measured.
        """
        if self.rate is None:
            raise FedSafetyError("no time can be predicted: the rate of this machine was not measured")
        return max(operations / self.rate.operations, traffic / self.rate.bandwidth) / self.share

    @property
    def total_seconds(self) -> float:
        """Time of everything, one thing after the other."""
        readings = [self.answering, *self.judging.values()]
        trained = self.seconds(self.training.executed + self.posthoc.executed)
        return trained + sum(self.seconds(reading.operations, reading.traffic) for reading in readings)


def predict(plan: Plan, device: Device, rate: Rate | None = None) -> Forecast:
    """Return what ``plan`` costs.

    Args:
        plan: Its cells; one that is made with ``unresolved=True`` will do.
        device: Where it will run: decides how far a step is divided.
        rate: What was measured of it, for times.
    """
    suite = plan.suite
    starts = {job.scenario.start for job in plan.jobs} | {cell.scenario.start for cell in plan.cells if cell.runs}
    named = [judge for judge in suite.judges if judge in suite.models or judge_source(suite, judge)]
    helpers = {job.training_key: generating_roles(job, plan.world) for job in plan.jobs}
    roles = dict.fromkeys([*sorted(starts), *sorted(set().union(*helpers.values())), *named])
    models = {role: model for role in roles if (model := find_model(suite, plan.world, role))}
    known = [job for job in plan.jobs if job.scenario.start in models]
    width, probes = _row_tokens(plan), probe_sets(plan)
    length = longest_sequence(suite, probes)
    training = _training_memory(suite, known, models, device, width)
    return Forecast(
        models=models,
        unknown=tuple(role for role in roles if role not in models),
        jobs=tuple(_job(suite, job, models[job.scenario.start], width) for job in known),
        training_memory={
            role: _with_sampling(memory, role, known, helpers, models, _sampled_length(suite, probes))
            for role, memory in training.items()
        },
        answering_memory={
            role: answering_memory(
                models[role].decoder,
                models[role].precision,
                suite.lora if role in starts else None,
                suite.compute,
                length if role in starts else judge_context(role, length + JUDGE_TOKENS + longest_judgement(role)),
                plan.generator,
            )
            for role in dict.fromkeys([*sorted(starts), *named])
            if role in models
        },
        answering=answering(plan, models, probes),
        judging=judging(plan, models, probes),
        row_tokens=width,
        device=device,
        rate=rate,
    )


def check_fits(suite: Suite, forecast: Forecast, device: Device, workers: int = 1) -> tuple[str, ...]:
    """Refuse a plan that cannot fit into memory; return which judges cannot, and why.

    A judge is no reason to refuse: stored responses can be judged elsewhere.

    Args:
        suite: Its suite.
        forecast: Its prediction.
        device: Where it will run.
        workers: Training processes at a time on a processor, each with weights of its own.

    Raises:
        UsageError: Training or answering takes more than ``device`` has; gives the numbers and the way out.
    """
    for role, peak in forecast.training_memory.items():
        refuse_training(role, peak, device, workers, checkpointing=suite.training.gradient_checkpointing)
    needs = forecast.answering_memory
    for role in needs.keys() - forecast.judging.keys():
        refuse_answering(role, needs[role], device)
    judged = [judge_too_large(role, needs[role], device) for role in forecast.judging if role in needs]
    return tuple(filter(None, judged))


def _row_tokens(plan: Plan) -> int:
    """Return the longest that a row can be, or, of a world that makes its own, the longest of some of its rows."""
    if plan.suite.training.max_length:
        return plan.suite.training.max_length
    if plan.suite.models or not plan.jobs:
        return ROW_TOKENS
    scenario = plan.jobs[0].scenario
    chat = open_chat(plan.world, scenario.start)
    rows = plan.world.benign(
        _SAMPLED_ROWS, stream(0, "predict"), refusal_share=scenario.refusal_share, task_shares=None
    )
    return max(len(chat.row(row).ids) for row in rows)


def _job(suite: Suite, job: TrainingJob, model: Model, width: int) -> JobForecast:
    aggregators = [parse_pipeline(name).aggregator for name in job.pipelines.values()]
    trains = any(entry is None or getattr(entry.target, "uses_updates", True) for entry in aggregators)
    round_operations = _scaled(
        _step_operations(suite, model, _round_step(suite, job.scenario, width)), suite.training.local_steps
    )
    finetuning = _scaled(_step_operations(suite, model, _posthoc_step(suite, width)), suite.posthoc.steps)
    derived = job.pipelines.keys() - {job.training_key}
    # Of a chain, every link is an adapter of its own, made from the one before.
    finetuned = sum(1 for key in derived if parse_pipeline(job.pipelines[key]).finalizers)
    posthoc = [_scaled(finetuning, finetuned), _scaled(round_operations, sum(job.reattacks.values()))]
    return JobForecast(
        scenario=job.scenario.id,
        seed=job.seed,
        start=job.scenario.start,
        training=_scaled(round_operations, suite.training.rounds * trains),
        posthoc=_sum(posthoc),
        adapter_bytes=4 * model.decoder.adapter_parameters(suite.lora) * len({job.training_key, *job.pipelines}),
    )


def _step_operations(suite: Suite, model: Model, step: Step) -> Operations:
    again = suite.training.gradient_checkpointing
    return training_operations(model.decoder, suite.lora, step, model.precision.dtype, checkpointing=again)


def _round_step(suite: Suite, scenario: Scenario, width: int) -> Step:
    return Step(scenario.participants, suite.training.batch_size, width, suite.training.batch_size * width)


def _posthoc_step(suite: Suite, width: int) -> Step:
    return Step(1, suite.posthoc.batch_size, width, suite.posthoc.batch_size * width)


def _training_memory(
    suite: Suite, jobs: Iterable[TrainingJob], models: Mapping[str, Model], device: Device, width: int
) -> dict[str, TrainingMemory]:
    peaks: dict[str, TrainingMemory] = {}
    steps = {(job.scenario.start, _round_step(suite, job.scenario, width)) for job in jobs}
    steps |= {(start, _posthoc_step(suite, width)) for start, _ in steps}
    for start, step in sorted(steps, key=str):
        # One after the other, a single client's rows are the whole step.
        whole = step if suite.training.mode == "stacked" else Step(1, step.rows, step.width, step.losses)
        memory = training_memory(
            models[start].decoder,
            models[start].precision,
            suite.lora,
            whole,
            suite.compute,
            device,
            checkpointing=suite.training.gradient_checkpointing,
        )
        if start not in peaks or memory.peak > peaks[start].peak:
            peaks[start] = memory
    return peaks


def _with_sampling(
    memory: TrainingMemory,
    start: str,
    jobs: Iterable[TrainingJob],
    helpers: Mapping[str, frozenset[str]],
    models: Mapping[str, Model],
    length: int,
) -> TrainingMemory:
    """Return a starting model's training with the data that is generated for it: of all, what takes most."""
    used = sorted(set().union(*(helpers[job.training_key] for job in jobs if job.scenario.start == start)))
    options = [
        sampling_memory(role, models[role].decoder, models[role].precision, memory, length, second=role != start)
        for role in used
        if role in models
    ]
    return replace(memory, sampling=max(options, key=lambda option: option.total, default=None))


def _sampled_length(suite: Suite, probes: Iterable[ProbeSet]) -> int:
    limit = suite.data.data_max_new_tokens if suite.data else max((probe.answer for probe in probes), default=0)
    return PROMPT_TOKENS + limit


def _sum(parts: Iterable[Operations]) -> Operations:
    listed = list(parts)
    return Operations(
        forward=sum(part.forward for part in listed),
        backward=sum(part.backward for part in listed),
        recomputed=sum(part.recomputed for part in listed),
    )


def _scaled(operations: Operations, times: int) -> Operations:
    return Operations(operations.forward * times, operations.backward * times, operations.recomputed * times)
