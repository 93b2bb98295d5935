"""A prediction and the settings of a suite, as lines for people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from pydantic import BaseModel

from benchmark.execution.roles import judge_source
from benchmark.models.sizes import gib
from benchmark.prediction.answers import Reading
from benchmark.prediction.device import Rate
from benchmark.prediction.forecast import Forecast
from benchmark.prediction.memory import rest_of
from benchmark.prediction.step import Operations
from benchmark.suites.suite import Suite


def forecast_lines(forecast: Forecast) -> list[str]:
    """Return the prediction: operations, times if the machine was measured, memory, disk, and the assumptions."""
    lines = ["Predicted, not measured (times are expected values, memory is an upper bound):"]
    for role, model in forecast.models.items():
        lines.append(f"  model {role}: {model.decoder.parameters / 1e6:,.3f} million parameters, {model.precision}")
    for role in forecast.unknown:
        lines.append(
            f"  model {role}: unknown size (no 'shape' in the suite, no configuration on this machine); it is left out"
        )
    scenarios = len({job.scenario for job in forecast.jobs})
    trainings = f"{len(forecast.jobs)} trainings in {scenarios} scenarios{forecast.sharing.remark}"
    if forecast.alignment.executed:
        time = "" if forecast.rate is None else f", {rough_duration(forecast.alone(forecast.alignment))}"
        lines.append(f"  alignment of the start model, once: {_operations(forecast.alignment)}{time}")
    lines += [
        f"  federated training, {trainings}: {_work(forecast, forecast.training)}",
        *_single(forecast),
        f"  server-side fine-tuning after them: {_work(forecast, forecast.posthoc)}",
        *_generated(forecast),
        f"  answers: {_reading(forecast, forecast.answering, forecast.shares.answering)}",
        *_measuring(forecast),
        *(
            f"  judging by {judge}: {_reading(forecast, reading, forecast.shares.judging)}"
            for judge, reading in forecast.judging.items()
        ),
        f"  adapters on disk: {gib(forecast.adapter_bytes)}",
    ]
    if forecast.remembered_bytes:
        size = gib(forecast.remembered_bytes)
        lines.append(f"  a remembered round on disk: {size}, until its last training; one for each training process")
    lines += list(_memory(forecast))
    if forecast.rate is not None:
        lines += list(_times(forecast, forecast.rate))
    return lines + list(_lengths(forecast)) + [f"  assumed: {assumption}" for assumption in forecast.assumptions]


def settings_lines(suite: Suite) -> list[str]:
    """Return every resolved setting of a suite, defaults included; data sources without the settings that are none."""
    lines = [f"suite {suite.id} {suite.version}: {suite.title} (world {suite.world})"]
    for role, source in suite.models.items():
        lines.append(f"  model {role}: {_fields(source)}")
    lines += [f"  {name}: {_fields(getattr(suite, name))}" for name in ("lora", "training", "posthoc")]
    if suite.alignment is not None:
        lines.append(f"  alignment: {_fields(suite.alignment)}")
    if suite.data is not None:
        for name, pool in suite.data.pools.items():
            lines.append(f"  data pool {name}: {_stated(pool)}")
        for probe in suite.data.probes:
            lines.append(f"  probes {probe.id}: {_fields(probe, without=('id', 'source'))}; {_stated(probe.source)}")
        lines += [f"  development {name}: {_stated(prompts)}" for name, prompts in suite.data.development.items()]
        lines += [f"  fresh prompts of {name}: {_stated(prompts)}" for name, prompts in suite.data.fresh.items()]
        lines.append(f"  data: {_fields(suite.data, without=('pools', 'probes', 'development', 'fresh'))}")
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
    return f"{seconds:.2g} s" if seconds < 100 else f"{seconds:.0f} s"


def _times(forecast: Forecast, rate: Rate) -> Iterator[str]:
    """Yield the expected time and the rates on which it rests."""
    engine, process = forecast.openings
    if forecast.jobs:
        side = f" in {forecast.processes} processes" if forecast.processes > 1 else ""
        opening = f", of which a process opens for {rough_duration(process)}" if process else ""
        training = f"all trainings{side}, data and work after them included"
        yield f"  {training}: {rough_duration(forecast.training_seconds)}{opening}"
    if engine and forecast.answering.passes:
        yield f"  opening the answering engine: {rough_duration(engine)}"
    yield f"  in all: {rough_duration(forecast.total_seconds)} expected on {rate.device}"
    threads = f" by {rate.threads} threads" if rate.threads > 1 else ""
    yield (
        f"  measured here just now ({rate.dtype}): {_rate(rate.operations)}{threads}, {rate.bandwidth / 1e9:.0f} GB/s "
        f"copied; assumed shares: {forecast.shares}"
    )


def _generated(forecast: Forecast) -> Iterator[str]:
    data = forecast.generated
    if data.passes:
        yield f"  data that models generate in trainings: {_reading(forecast, data, forecast.shares.sampling)}"


def _lengths(forecast: Forecast) -> Iterator[str]:
    """Yield the lengths that were read from the data."""
    lengths = forecast.lengths
    means = {
        f"{sum(rows.tokens) / len(rows.tokens):.0f} tokens, {sum(rows.losses) / len(rows.losses):.0f} of them with loss"
        for rows in lengths.rows.values()
    }
    for mean in sorted(means):
        yield f"  read from the data here: training rows of {mean} on average, padded to the longest of a pass"
    for role, probes in lengths.probes.items():
        count = sum(probe.count for probe in probes)
        mean = f"{sum(probe.count * probe.prompt for probe in probes) / max(1, count):.0f}"
        yield f"  read from the data here: prompts for {role} of {mean} tokens on average"


def _single(forecast: Forecast) -> Iterator[str]:
    """Yield the price of the most expensive training of each starting model."""
    for role in forecast.training_memory:
        jobs = [job for job in forecast.jobs if job.start == role]
        dearest = max(jobs, key=lambda job: job.training.useful)
        time = "" if forecast.rate is None else f", {rough_duration(forecast.alone(dearest.training))} in one process"
        yield f"    one of them ({dearest.scenario}, from {role}): {_operations(dearest.training)}{time}"


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
    # vLLM takes its share of a GPU when it opens. On a processor, and with transformers, memory follows the need.
    takes_share = forecast.device.kind == "cuda" and forecast.generator.startswith("vllm")
    for role, answering in forecast.answering_memory.items():
        adapters = f"adapter slots {gib(answering.adapters)}"
        if answering.copy:
            adapters = f"copy of the linear layers for merging adapters {gib(answering.copy)}"
        share = f"; vLLM takes {answering.fraction:.0%} of a GPU" if takes_share else ""
        yield (
            f"  memory of answering with {role}: at least {gib(answering.least)} a device (weights "
            f"{gib(answering.weights)}, {adapters}), with the cache of a full batch "
            f"{gib(answering.fixed + answering.full_cache)}{share}"
        )


def _work(forecast: Forecast, operations: Operations) -> str:
    time = f", {rough_duration(forecast.seconds(operations.executed))}" if forecast.rate is not None else ""
    return _operations(operations) + time


def _operations(operations: Operations) -> str:
    again = f" and {_count(operations.recomputed)} recomputed" if operations.recomputed else ""
    return _count(operations.useful) + again


def _measuring(forecast: Forecast) -> list[str]:
    """Return the line about likelihoods; none for a suite that measures none."""
    measuring = forecast.measuring
    if not measuring.passes:
        return []
    time = _time(forecast, measuring, forecast.shares.answering)
    counts = f"{measuring.passes:,} sequences, {measuring.read:,} tokens"
    return [f"  likelihoods: {counts}, {_count(measuring.operations)}{time}"]


def _reading(forecast: Forecast, reading: Reading, share: float) -> str:
    time = _time(forecast, reading, share)
    return (
        f"{reading.passes:,} sequences, {reading.read:,} tokens of prompts, {reading.written:,} new tokens, "
        f"{_count(reading.operations)}{time}"
    )


def _time(forecast: Forecast, reading: Reading, share: float) -> str:
    if forecast.rate is None:
        return ""
    return f", {rough_duration(forecast.seconds(reading.operations, reading.traffic, share))}"


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


def _stated(settings: BaseModel) -> str:
    """Return the settings that have a value; ``none`` is left out."""
    values = {name: getattr(settings, name) for name in type(settings).model_fields}
    return _fields(settings, without=[name for name, value in values.items() if value in (None, "", (), [], {})])


def _value(value: object) -> str:
    match value:
        case None:
            return "none"
        case "" | () | []:
            return "none"
        case bool():
            return "yes" if value else "no"
        case BaseModel():
            return f"({stated})" if (stated := _stated(value)) else "none"
        case Mapping():
            return "{" + ", ".join(f"{key}: {_value(inner)}" for key, inner in value.items()) + "}" if value else "none"
        case tuple() | list():
            return "[" + ", ".join(map(_value, value)) + "]"
    return str(value).replace("\n", "\\n")
