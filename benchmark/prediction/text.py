"""A prediction and the settings of a suite, as lines for people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from pydantic import BaseModel

from benchmark.execution.roles import judge_source
from benchmark.models.sizes import gib
from benchmark.prediction.answers import Reading
from benchmark.prediction.forecast import ASSUMPTIONS, Forecast
from benchmark.prediction.memory import rest_of
from benchmark.prediction.step import Operations
from benchmark.suites.suite import Suite


def forecast_lines(forecast: Forecast) -> list[str]:
    """Return the prediction: operations, times if the machine was measured, memory, disk, and the assumptions."""
    lines = ["Predicted, not measured (upper bounds):"]
    for role, model in forecast.models.items():
        lines.append(f"  model {role}: {model.decoder.parameters / 1e6:,.3f} million parameters, {model.precision}")
    for role in forecast.unknown:
        lines.append(
            f"  model {role}: unknown size (no 'shape' in the suite, no configuration on this machine); it is left out"
        )
    scenarios = len({job.scenario for job in forecast.jobs})
    trainings = f"{len(forecast.jobs)} trainings in {scenarios} scenarios{forecast.sharing.remark}"
    if forecast.alignment.executed:
        lines.append(f"  alignment of the start model, once: {_work(forecast, forecast.alignment)}")
    lines += [
        f"  federated training, {trainings}: {_work(forecast, forecast.training)}",
        *_single(forecast),
        f"  server-side fine-tuning after them: {_work(forecast, forecast.posthoc)}",
        f"  answers: {_reading(forecast, forecast.answering)}",
        *_measuring(forecast),
        *(f"  judging by {judge}: {_reading(forecast, reading)}" for judge, reading in forecast.judging.items()),
        f"  adapters on disk: {gib(forecast.adapter_bytes)}",
    ]
    if forecast.remembered_bytes:
        size = gib(forecast.remembered_bytes)
        lines.append(f"  a remembered round on disk: {size}, until its last training; one for each training process")
    lines += list(_memory(forecast))
    if forecast.rate is not None:
        rate = forecast.rate
        lines.append(f"  in all: {rough_duration(forecast.total_seconds)} on {rate.device}")
        lines.append(
            f"  measured here just now ({rate.dtype}): {_rate(rate.operations)}, {rate.bandwidth / 1e9:.0f} GB/s "
            f"copied; assumed share of both: {forecast.share:.0%}"
        )
    rows = f"training rows of {forecast.row_tokens} tokens, each with loss; shorter rows take less"
    return lines + [f"  assumed: {assumption}" for assumption in (rows, *ASSUMPTIONS)]


def settings_lines(suite: Suite) -> list[str]:
    """Return every resolved setting of a suite, defaults included."""
    lines = [f"suite {suite.id} {suite.version}: {suite.title} (world {suite.world})"]
    for role, source in suite.models.items():
        lines.append(f"  model {role}: {_fields(source)}")
    lines += [f"  {name}: {_fields(getattr(suite, name))}" for name in ("lora", "training", "posthoc")]
    if suite.alignment is not None:
        lines.append(f"  alignment: {_fields(suite.alignment)}")
    if suite.data is not None:
        for name, pool in suite.data.pools.items():
            lines.append(f"  data pool {name}: {_fields(pool)}")
        for probe in suite.data.probes:
            lines.append(f"  probes {probe.id}: {_fields(probe, without=('id', 'source'))}; {_fields(probe.source)}")
        lines.append(f"  data: {_fields(suite.data, without=('pools', 'probes'))}")
    defenses = suite.defenses if isinstance(suite.defenses, str) else ", ".join(suite.defenses)
    lines += [
        f"  judges: {', '.join(suite.judges)} (headline: {suite.primary_judge})",
        f"  decoding: {_fields(suite.decoding)}",
        f"  compute (in no key): {_fields(suite.compute)}",
        f"  defenses: {defenses}; pipelines: {', '.join(suite.pipelines) or 'none'}",
        f"  seeds: {', '.join(map(str, suite.seeds))}; lm-eval tasks: {', '.join(suite.tasks) or 'none'}",
    ]
    for judge in suite.judges:
        judge_model = suite.models.get(judge) or judge_source(suite, judge)
        if judge_model is not None:
            lines.append(f"  judge {judge}: {_fields(judge_model)}")
    for scenario in suite.every_scenario:
        lines.append(f"  scenario {scenario.id}: {_fields(scenario, without=('id', 'title', 'description'))}")
    return lines


def rough_duration(seconds: float) -> str:
    """Return a predicted time in its largest unit, with two digits, because a prediction has no more."""
    for unit, size in (("years", 365 * 86_400), ("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.2g} {unit}" if seconds < 100 * size else f"{seconds / size:,.0f} {unit}"
    return f"{seconds:.2g} s"


def _single(forecast: Forecast) -> Iterator[str]:
    """Yield the price of the most expensive training of each starting model."""
    for role in forecast.training_memory:
        jobs = [job for job in forecast.jobs if job.start == role]
        dearest = max(jobs, key=lambda job: job.training.useful)
        yield f"    one of them ({dearest.scenario}, from {role}): {_work(forecast, dearest.training)}"


def _memory(forecast: Forecast) -> Iterator[str]:
    for role, memory in forecast.training_memory.items():
        parts = f" in {memory.parts} parts a step" if memory.parts > 1 else ""
        yield (
            f"  peak memory of training {role}: {gib(memory.resident(forecast.device))} (weights "
            f"{gib(memory.weights)}, adapters and optimizer {gib(memory.adapters)}, activations "
            f"{gib(memory.activations)}{parts}{rest_of(memory, forecast.device)})"
        )
        if memory.sampling is not None:
            sampling = memory.sampling
            second = f", its own {gib(sampling.second)}" if sampling.second else ""
            yield (
                f"    while {sampling.role} generates data: {gib(sampling.total)} (weights {gib(sampling.weights)}"
                f"{second}, keys and values {gib(sampling.cache)})"
            )
    for role, answering in forecast.answering_memory.items():
        adapters = f"adapter slots {gib(answering.adapters)}"
        if answering.copy:
            adapters = f"copy of the linear layers for merging adapters {gib(answering.copy)}"
        yield (
            f"  memory of answering with {role}: at least {gib(answering.least)} a device (weights "
            f"{gib(answering.weights)}, {adapters}), with the cache of a full batch "
            f"{gib(answering.fixed + answering.full_cache)}; vLLM takes "
            f"{answering.fraction:.0%} of a GPU"
        )


def _work(forecast: Forecast, operations: Operations) -> str:
    again = f" and {_count(operations.recomputed)} recomputed" if operations.recomputed else ""
    time = f", {rough_duration(forecast.seconds(operations.executed))}" if forecast.rate is not None else ""
    return f"{_count(operations.useful)}{again}{time}"


def _measuring(forecast: Forecast) -> list[str]:
    """Return the line about likelihoods; none for a suite that measures none."""
    measuring = forecast.measuring
    if not measuring.passes:
        return []
    seconds = forecast.seconds(measuring.operations, measuring.traffic) if forecast.rate is not None else None
    time = "" if seconds is None else f", {rough_duration(seconds)}"
    return [f"  likelihoods: {measuring.passes:,} of {measuring.read:,} tokens, {_count(measuring.operations)}{time}"]


def _reading(forecast: Forecast, reading: Reading) -> str:
    seconds = forecast.seconds(reading.operations, reading.traffic) if forecast.rate is not None else None
    time = "" if seconds is None else f", {rough_duration(seconds)}"
    return f"{reading.passes:,} with {reading.written:,} new tokens, {_count(reading.operations)}{time}"


def _count(operations: float) -> str:
    return f"{operations:.2e} operations"


def _rate(operations: float) -> str:
    return (
        f"{operations / 1e12:.2f} tera-operations/s"
        if operations >= 1e11
        else f"{operations / 1e9:.1f} giga-operations/s"
    )


def _fields(settings: BaseModel, without: Iterable[str] = ()) -> str:
    left_out = set(without)
    return ", ".join(
        f"{name} {_value(getattr(settings, name))}" for name in type(settings).model_fields if name not in left_out
    )


def _value(value: object) -> str:
    match value:
        case None:
            return "none"
        case "" | () | []:
            return "none"
        case bool():
            return "yes" if value else "no"
        case BaseModel():
            return f"({_fields(value)})"
        case Mapping():
            return "{" + ", ".join(f"{key}: {_value(inner)}" for key, inner in value.items()) + "}" if value else "none"
        case tuple() | list():
            return "[" + ", ".join(map(_value, value)) + "]"
    return str(value).replace("\n", "\\n")
