"""Cost of a plan from sizes alone, before anything is loaded: operations, time, memory and disk.

With large models, samples of a suite's work (:mod:`benchmark.prediction.measured`) would take as long as whole runs of
small suites. This prediction needs no weights and no data. Models are described by sizes in the suite or by a
configuration on this machine, and the rest follows from the settings. :meth:`Forecast.assumptions` lists the
assumptions. Only the rates at which this machine multiplies matrices and copies memory are measured, and token lengths
where the data are here (:mod:`benchmark.prediction.lengths`). Times are expected values; memory is an upper bound.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from benchmark.errors import FedSafetyError
from benchmark.execution.plan import Plan, TrainingJob
from benchmark.execution.prepared import aligning_entry
from benchmark.execution.roles import generating_roles, judge_source
from benchmark.execution.sharing import Sharing, readers, shared_groups
from benchmark.execution.worlds import open_chat
from benchmark.generation.needs import AnsweringMemory, Device, answering_memory, judge_too_large, refuse_answering
from benchmark.methods.pipeline import parse_pipeline
from benchmark.models.configuration import Model
from benchmark.models.sizes import trains_lean
from benchmark.prediction.answers import (
    JUDGE_TOKENS,
    PROMPT_TOKENS,
    UNKNOWN_PROBES,
    ProbeSet,
    Reading,
    added,
    answering,
    judge_context,
    judging,
    longest_judgement,
    longest_sequence,
    measuring,
    probe_sets,
)
from benchmark.prediction.device import Rate
from benchmark.prediction.generating import generated
from benchmark.prediction.lengths import Lengths, RowSample
from benchmark.prediction.memory import TrainingMemory, refuse_training, sampling_memory, training_memory
from benchmark.prediction.rates import Shares, opening_seconds, shares_of
from benchmark.prediction.roles import find_model
from benchmark.prediction.schedule import Task, makespan
from benchmark.prediction.step import Operations, Step, training_operations
from benchmark.records.remembered import REMEMBERED_BYTES
from benchmark.seeds import stream
from benchmark.suites.alignment import AlignmentSettings
from benchmark.suites.suite import Scenario, Suite

ROW_TOKENS = 512
"""Tokens of a training row if the suite sets no limit and the world's rows cannot be read."""

_SAMPLED_ROWS = 64


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
        remembered_bytes: Bytes on disk of its first round while other trainings of the plan reuse the round; else 0.
        attack_data: Data that the attackers' model generates, once for the trainings that a process does in a row with
            the same scenario and seed.
        defense_data: Data that models generate for defenses after the rounds.
        key: Key of the training.
        group: Name of the trainings with which it shares the first round; empty for none.
    """

    scenario: str
    seed: int
    start: str
    training: Operations
    posthoc: Operations
    adapter_bytes: int
    remembered_bytes: int = 0
    attack_data: Reading = field(default_factory=Reading)
    defense_data: Reading = field(default_factory=Reading)
    key: str = ""
    group: str = ""


@dataclass(frozen=True)
class Forecast:
    """Cost of a whole plan, including work that is done already.

    Attributes:
        models: Models of known size that train, answer, judge or generate data, by role.
        unknown: Roles of models of unknown size, which are left out.
        jobs: Its trainings.
        training_memory: Peak of training by role of the starting model.
        answering_memory: Need of the answering engine by role.
        alignment: Operations of the alignment's training, unless the suite ships the adapter, and of those by defenses.
        answering: Generated answers to all probes.
        measuring: Likelihoods of given continuations.
        judging: Passes of each judge that is a model of known size.
        sharing: Trainings by their local training. A round that several trainings share counts once.
        row_tokens: Tokens of the longest training row: the limit of the suite, or the longest of a sample.
        device: Device of the plan.
        rate: Measured rates of this machine, or ``None`` for a prediction without times.
        lengths: Measured lengths of rows and prompts; the others are assumed.
        shares: Shares of the rates that a run reaches.
        openings: Seconds in which the answering engine and a training process open.
        generator: Kind of engine that answers.
        processes: Training processes at once, of one thread each on a processor.
    """

    models: Mapping[str, Model]
    unknown: tuple[str, ...]
    jobs: tuple[JobForecast, ...]
    training_memory: Mapping[str, TrainingMemory]
    answering_memory: Mapping[str, AnsweringMemory]
    alignment: Operations
    answering: Reading
    measuring: Reading
    judging: Mapping[str, Reading]
    sharing: Sharing
    row_tokens: int
    device: Device
    rate: Rate | None
    lengths: Lengths
    shares: Shares
    openings: tuple[float, float]
    generator: str
    processes: int = 1

    @cached_property
    def training(self) -> Operations:
        """Operations of all federated trainings."""
        return _sum(job.training for job in self.jobs)

    @cached_property
    def posthoc(self) -> Operations:
        """Operations of all work after the last rounds."""
        return _sum(job.posthoc for job in self.jobs)

    @property
    def adapter_bytes(self) -> int:
        """Bytes on disk of all adapters."""
        return sum(job.adapter_bytes for job in self.jobs)

    @property
    def remembered_bytes(self) -> int:
        """Bytes on disk of the largest remembered round."""
        return max((job.remembered_bytes for job in self.jobs), default=0)

    @cached_property
    def generated(self) -> Reading:
        """Data that models generate in trainings: an attack's once for each scenario and seed, and the defenses'."""
        attacks = {(job.scenario, job.seed): job.attack_data for job in self.jobs}
        return added([*attacks.values(), *(job.defense_data for job in self.jobs)])

    def seconds(self, operations: float, traffic: float = 0.0, share: float | None = None) -> float:
        """Return the time of so many operations and bytes of traffic on the whole machine.

        Args:
            operations: Matrix operations.
            traffic: Bytes that are read from memory.
            share: Share of the measured rates; by default that of training.

        Raises:
            FedSafetyError: Nothing was measured.
        """
        if self.rate is None:
            raise FedSafetyError("no time can be predicted: the rate of this machine was not measured")
        whole = max(operations / self.rate.operations, traffic / self.rate.bandwidth)
        return whole / (self.shares.training if share is None else share)

    def alone(self, operations: Operations, data: Reading | None = None) -> float:
        """Return the time of training steps and of generated data in one training process.

        On a processor such a process has one thread, so it reaches the measured rate divided by the threads.
        """
        threads, data = self.rate.threads if self.rate else 1, data or Reading()
        generating = self.seconds(data.operations, data.traffic / threads, self.shares.sampling)
        return threads * (self.seconds(operations.executed) + generating)

    @property
    def training_seconds(self) -> float:
        """Time of all trainings with their data and the work after them, in processes side by side."""
        tasks = [
            Task(
                name=job.key,
                seconds=self.alone(_sum([job.training, job.posthoc]), job.defense_data),
                data=f"{job.scenario}/{job.seed}",
                making=self.alone(Operations(0.0, 0.0), job.attack_data),
            )
            for job in self.jobs
        ]
        groups = {job.key: job.group for job in self.jobs if job.group}
        return makespan(tasks, groups, self.processes, self.openings[1])

    @property
    def total_seconds(self) -> float:
        """Time of all work, one part after the other; trainings run side by side."""
        read = [(reading, self.shares.answering) for reading in (self.answering, self.measuring)]
        read += [(reading, self.shares.judging) for reading in self.judging.values()]
        parts = sum(self.seconds(reading.operations, reading.traffic, share) for reading, share in read)
        opening = self.openings[0] if self.answering.passes else 0.0
        return self.alone(self.alignment) + self.training_seconds + opening + parts

    @property
    def assumptions(self) -> tuple[str, ...]:
        """What the prediction assumes because neither the suite nor this machine determines it."""
        scenarios, starts = {job.scenario for job in self.jobs}, {job.start for job in self.jobs}
        unread = scenarios - self.lengths.rows.keys()
        opening = "" if any(self.openings) else "opening models, "
        lines = {
            f"training rows of {self.row_tokens} tokens, each with loss; shorter rows take less": unread,
            "rows of attackers as long as those of honest clients": scenarios - unread,
            f"prompts of {PROMPT_TOKENS} tokens": starts - self.lengths.probes.keys(),
            "answers as long as their limit": True,
            f"{UNKNOWN_PROBES} probes in a set that is not on this machine and has no limit": not self.lengths.probes,
            f"judges' templates of {JUDGE_TOKENS} tokens and answers as long as their limit": self.judging,
            "generated data as long as their limit; two proposals and an answer for each pair": self.generated.passes,
            "memory not counted: models that methods use without declaring the trait": True,
            f"time not counted: {opening}aggregation, canaries, data of methods that do not declare the trait": True,
        }
        return tuple(line for line, holds in lines.items() if holds)


def predict(
    plan: Plan,
    device: Device,
    rate: Rate | None = None,
    remembered_bytes: int = REMEMBERED_BYTES,
    lengths: Lengths | None = None,
) -> Forecast:
    """Return the cost of ``plan``.

    Args:
        plan: The plan; ``unresolved=True`` in :func:`benchmark.execution.plan.make_plan` suffices.
        device: Device of the plan, whose memory decides how far a step is divided.
        rate: Measured rates of the device, for times.
        remembered_bytes: Disk that remembered rounds may take; a larger round is trained anew by each training.
        lengths: Measured lengths of the plan's data, for times; by default all lengths are assumed.
    """
    suite, lengths = plan.suite, lengths or Lengths()
    starts = {job.scenario.start for job in plan.jobs} | {cell.scenario.start for cell in plan.cells if cell.runs}
    named = [judge for judge in suite.judges if judge in suite.models or judge_source(suite, judge)]
    helpers = {job.training_key: generating_roles(job, plan.world) for job in plan.jobs}
    roles = dict.fromkeys([*sorted(starts), *sorted(set().union(*helpers.values())), *named])
    models = {role: model for role in roles if (model := find_model(suite, plan.world, role))}
    jobs = [job for job in plan.jobs if job.scenario.start in models]
    width, probes = _row_tokens(plan), probe_sets(plan)
    length, limit = longest_sequence(suite, probes), _sampled_limit(suite, probes)
    training = _training_memory(suite, jobs, models, device, width)
    sizes = {job.training_key: _round_bytes(suite, job, models[job.scenario.start]) for job in jobs}
    remembered = [job for job in jobs if sizes[job.training_key] <= remembered_bytes]
    reused, groups = readers(remembered), shared_groups(remembered)
    kept = {group[0].training_key for group in groups.values()}
    answered = {role: lengths.probes.get(role, probes) for role in models}
    return Forecast(
        models=models,
        unknown=tuple(role for role in roles if role not in models),
        jobs=tuple(
            replace(
                _job(plan, job, models, width, device, lengths, limit, reuses=job.training_key in reused),
                remembered_bytes=sizes[job.training_key] if job.training_key in kept else 0,
                group=job.local_key if job.local_key in groups and job in groups[job.local_key] else "",
            )
            for job in jobs
        ),
        training_memory={
            role: _with_sampling(memory, role, jobs, helpers, models, PROMPT_TOKENS + limit)
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
                suite.decoding.adapters,
            )
            for role in dict.fromkeys([*sorted(starts), *named])
            if role in models
        },
        alignment=_alignment(suite, jobs, models, width, device, lengths.alignment),
        answering=answering(plan, models, answered),
        measuring=measuring(plan, models, answered),
        judging=judging(plan, models, probes),
        sharing=Sharing.of(jobs, suite, reused),
        row_tokens=width,
        device=device,
        rate=rate,
        lengths=lengths,
        shares=shares_of(plan, device, rate),
        openings=opening_seconds(plan, device),
        generator=plan.generator,
    )


def check_fits(suite: Suite, forecast: Forecast, device: Device, workers: int = 1) -> tuple[str, ...]:
    """Refuse a plan that does not fit into memory; return the reasons of judges that do not fit.

    A plan is not refused because of a judge, because another machine can judge the stored responses.

    Args:
        suite: Suite of the plan.
        forecast: Prediction for the plan.
        device: Device of the plan.
        workers: Training processes at a time on a processor, each with weights of its own.

    Raises:
        UsageError: Training or answering takes more than ``device`` has; the message gives the numbers and the way out.
    """
    for role, peak in forecast.training_memory.items():
        refuse_training(role, peak, device, workers, checkpointing=suite.training.gradient_checkpointing)
    needs = forecast.answering_memory
    for role in needs.keys() - forecast.judging.keys():
        refuse_answering(role, needs[role], device)
    judged = [judge_too_large(role, needs[role], device) for role in forecast.judging if role in needs]
    return tuple(filter(None, judged))


def _row_tokens(plan: Plan) -> int:
    """Return the limit on a row's tokens, or the longest of a sample of rows if the world makes them."""
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


def _round_bytes(suite: Suite, job: TrainingJob, model: Model) -> int:
    """Return the bytes of the adapters of a round's clients."""
    return 4 * model.decoder.adapter_parameters(suite.lora) * job.scenario.participants


def _job(
    plan: Plan,
    job: TrainingJob,
    models: Mapping[str, Model],
    width: int,
    device: Device,
    lengths: Lengths,
    limit: int,
    *,
    reuses: bool,
) -> JobForecast:
    """Return the forecast of a job, which ``reuses`` the first round of another or trains all of its rounds.

    Generated texts have up to ``limit`` tokens.
    """
    suite, scenario = plan.suite.under(job.scenario), job.scenario
    model = models[scenario.start]
    trains = any(parse_pipeline(name).trains for name in job.pipelines.values())
    step, rows = _round_step(suite, scenario, width), lengths.rows.get(scenario.id)
    if rows:
        step = rows.step(step.clients, step.rows, stacked=suite.training.mode == "stacked")
    round_operations = _scaled(_step_operations(suite, model, step, device), suite.training.local_steps)
    step, rows = _posthoc_step(suite, width), lengths.server.get(scenario.id, rows)
    if rows:
        step = rows.step(1, step.rows)
    finetuning = _scaled(_step_operations(suite, model, step, device), suite.posthoc.steps)
    derived = job.pipelines.keys() - {job.training_key}
    # Each link of a chain is an adapter of its own, made from the link before.
    finetuned = sum(1 for key in derived if parse_pipeline(job.pipelines[key]).finalizers)
    posthoc = [_scaled(finetuning, finetuned), _scaled(round_operations, sum(job.reattacks.values()))]
    asking = lengths.asking.get(scenario.start, PROMPT_TOKENS)
    attack_data, defense_data = generated(plan, job, models, asking, limit)
    return JobForecast(
        scenario=scenario.id,
        seed=job.seed,
        start=scenario.start,
        training=_scaled(round_operations, suite.training.rounds * trains - reuses),
        posthoc=_sum(posthoc),
        adapter_bytes=4 * model.decoder.adapter_parameters(suite.lora) * len({job.training_key, *job.pipelines}),
        attack_data=attack_data,
        defense_data=defense_data,
        key=job.training_key,
    )


def _alignment(
    suite: Suite,
    jobs: Iterable[TrainingJob],
    models: Mapping[str, Model],
    width: int,
    device: Device,
    rows: RowSample | None,
) -> Operations:
    """Return the operations of the alignment's training, if a job needs it, and of those in its place by defenses."""
    settings, aligned = suite.alignment, [job for job in jobs if suite.aligned(job.scenario)]
    if settings is None or not aligned:
        return Operations(0.0, 0.0)
    entries = {entry.info.id: entry for job in aligned if (entry := aligning_entry(suite, job))}
    trainings = sum(entry.info.alignment_gradients for entry in entries.values()) + (settings.adapter is None)
    step = rows.step(1, settings.batch_size) if rows else _alignment_step(settings, width)
    return _scaled(_step_operations(suite, models[settings.start], step, device), settings.steps * trainings)


def _alignment_step(settings: AlignmentSettings, width: int) -> Step:
    tokens = settings.max_length or width
    return Step(1, settings.batch_size, tokens, settings.batch_size * tokens)


def _step_operations(suite: Suite, model: Model, step: Step, device: Device) -> Operations:
    return training_operations(
        model.decoder,
        suite.lora,
        step,
        model.precision.dtype,
        checkpointing=suite.training.gradient_checkpointing,
        lean=_is_lean(suite, model, device),
    )


def _is_lean(suite: Suite, model: Model, device: Device) -> bool:
    """Return whether the model is trained with lean passes; sequential training has none."""
    precision = model.precision
    return suite.training.mode == "stacked" and trains_lean(precision.dtype, device.kind, precision.quantization)


def _round_step(suite: Suite, scenario: Scenario, width: int) -> Step:
    return Step(scenario.participants, suite.training.batch_size, width, suite.training.batch_size * width)


def _posthoc_step(suite: Suite, width: int) -> Step:
    return Step(1, suite.posthoc.batch_size, width, suite.posthoc.batch_size * width)


def _training_memory(
    suite: Suite, jobs: Iterable[TrainingJob], models: Mapping[str, Model], device: Device, width: int
) -> dict[str, TrainingMemory]:
    peaks: dict[str, TrainingMemory] = {}
    steps = {(job.scenario.start, _round_step(suite.under(job.scenario), job.scenario, width)) for job in jobs}
    steps |= {(start, _posthoc_step(suite, width)) for start, _ in steps}
    trained = suite.alignment and (not suite.alignment.adapter or any(aligning_entry(suite, job) for job in jobs))
    if suite.alignment and trained and suite.alignment.start in {start for start, _ in steps}:
        steps.add((suite.alignment.start, _alignment_step(suite.alignment, width)))
    for start, step in sorted(steps, key=str):
        # In sequential mode, the rows of a single client are the whole step.
        whole = step if suite.training.mode == "stacked" else Step(1, step.rows, step.width, step.losses)
        memory = training_memory(
            models[start].decoder,
            models[start].precision,
            suite.lora,
            whole,
            suite.compute,
            device,
            checkpointing=suite.training.gradient_checkpointing,
            lean=_is_lean(suite, models[start], device),
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
    """Return a starting model's training memory, with that of the largest model that generates data for it."""
    used = sorted(set().union(*(helpers[job.training_key] for job in jobs if job.scenario.start == start)))
    options = [
        sampling_memory(role, models[role].decoder, models[role].precision, memory, length, second=role != start)
        for role in used
        if role in models
    ]
    return replace(memory, sampling=max(options, key=lambda option: option.total, default=None))


def _sampled_limit(suite: Suite, probes: Iterable[ProbeSet]) -> int:
    """Return the most tokens of a generated text."""
    return suite.data.data_max_new_tokens if suite.data else max((probe.answer for probe in probes), default=0)


def _sum(parts: Iterable[Operations]) -> Operations:
    listed = list(parts)
    return Operations(
        forward=sum(part.forward for part in listed),
        backward=sum(part.backward for part in listed),
        recomputed=sum(part.recomputed for part in listed),
    )


def _scaled(operations: Operations, times: int) -> Operations:
    return Operations(operations.forward * times, operations.backward * times, operations.recomputed * times)
