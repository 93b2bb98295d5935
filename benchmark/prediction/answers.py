"""Cost of answering all probes, of likelihoods beside the answers, and of judging the answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from benchmark.errors import InputsMissingError
from benchmark.execution.likelihoods import continuations
from benchmark.execution.plan import Plan
from benchmark.generation.needs import held_quantization
from benchmark.judges.base import judges
from benchmark.models.configuration import Model
from benchmark.suites.suite import Suite
from tasks.base import ProbeKind
from tasks.hub.settings import ProbeSource

PROMPT_TOKENS = 128
"""Tokens of a prompt with its template."""

JUDGE_TOKENS = 1000
"""Tokens of a judge's template around a prompt and its answer."""

OPENING_TOKENS = 16
"""Tokens of an opening whose likelihood is measured."""

UNKNOWN_PROBES = 500
"""Assumed probes of a set that is not on this machine and has no limit."""


@dataclass(frozen=True)
class Reading:
    """Tokens that go through a model without training, and their cost.

    Attributes:
        passes: Sequences.
        read: Tokens of their prompts.
        written: Tokens of their answers.
        operations: Matrix operations.
        traffic: Bytes of weights that are read from memory, once for each batch's next token.
    """

    passes: int = 0
    read: int = 0
    written: int = 0
    operations: float = 0.0
    traffic: float = 0.0


@dataclass(frozen=True)
class ProbeSet:
    """Probes of one kind with one limit of answers, in tokens, and one number of measured continuations each."""

    kind: ProbeKind
    count: int
    answer: int
    measured: int = 0


def probe_sets(plan: Plan) -> list[ProbeSet]:
    """Return the probes of a plan, by the suite's limits if they are not on this machine."""
    try:
        openings = plan.world.refusal_openings
        counted = Counter(
            (probe.kind, probe.max_new_tokens, len(continuations(probe, openings))) for probe in plan.world.probes()
        )
    except InputsMissingError:
        sources = plan.suite.data.probes if plan.suite.data else ()
        return [ProbeSet(p.kind, p.limit or UNKNOWN_PROBES, p.max_new_tokens, _measured(p, plan)) for p in sources]
    return [ProbeSet(kind, count, answer, measured) for (kind, answer, measured), count in counted.items()]


def _measured(source: ProbeSource, plan: Plan) -> int:
    """Return the number of measured continuations of each probe of a set that is not on this machine."""
    if source.kind is ProbeKind.PERPLEXITY:
        return 1
    openings = len(plan.world.refusal_openings)
    return openings + 1 if openings and "target" in source.source.columns else 0


def answering(plan: Plan, models: Mapping[str, Model], probes: Iterable[ProbeSet]) -> Reading:
    """Return the cost of all response sets whose starting model is in ``models``."""
    starts = {cell.response_key: cell.scenario.start for cell in plan.cells if cell.runs}
    sets = Counter(start for start in starts.values() if start in models)
    return _sum(
        _reading(models[start], plan, count * probe.count, PROMPT_TOKENS, probe.answer)
        for start, count in sets.items()
        for probe in probes
        if probe.kind is not ProbeKind.PERPLEXITY
    )


def measuring(plan: Plan, models: Mapping[str, Model], probes: Iterable[ProbeSet]) -> Reading:
    """Return the cost of the likelihoods of all response sets whose starting model is in ``models``."""
    starts = {cell.response_key: cell.scenario.start for cell in plan.cells if cell.runs}
    sets = Counter(start for start in starts.values() if start in models)
    return _sum(
        _scoring(models[start], plan, count * probe.count * probe.measured, PROMPT_TOKENS + length)
        for probe in probes
        for length in [probe.answer if probe.kind is ProbeKind.PERPLEXITY else min(probe.answer, OPENING_TOKENS)]
        for start, count in sets.items()
    )


def judging(plan: Plan, models: Mapping[str, Model], probes: Iterable[ProbeSet]) -> dict[str, Reading]:
    """Return the cost of all verdicts by judge, for judges whose model is in ``models``."""
    sets = len({cell.response_key for cell in plan.cells if cell.runs})
    listed = list(probes)
    return {
        judge: _sum(
            _reading(
                models[judge],
                plan,
                sets * probe.count,
                PROMPT_TOKENS + probe.answer + JUDGE_TOKENS,
                longest_judgement(judge),
            )
            for probe in listed
            if probe.kind in judges.get(judge).info.judges
        )
        for judge in plan.suite.judges
        if judge in models
    }


def longest_judgement(judge: str) -> int:
    """Return the largest number of tokens of a judge's answer."""
    return int(getattr(judges.get(judge).target, "longest_answer", 1))


def judge_context(judge: str, otherwise: int) -> int:
    """Return the number of tokens for which a judge opens its model, or ``otherwise`` if it sets none."""
    return int(getattr(judges.get(judge).target, "context", otherwise))


def longest_sequence(suite: Suite, probes: Iterable[ProbeSet]) -> int:
    """Return the tokens of the longest prompt with its answer."""
    return suite.compute.max_length or PROMPT_TOKENS + max((probe.answer for probe in probes), default=0)


def _reading(model: Model, plan: Plan, passes: int, read: int, written: int) -> Reading:
    decoder, precision = model.decoder, model.precision
    tokens = passes * (read + written)
    compute = plan.suite.compute
    held = held_quantization(precision.quantization, plan.generator, compute.tensor_parallel)
    weights = decoder.weight_bytes(precision.dtype, held)
    return Reading(
        passes=passes,
        read=passes * read,
        written=passes * written,
        # In a prompt, the head works on the last token only.
        operations=2.0 * (tokens * decoder.linear_parameters + passes * written * decoder.hidden * decoder.vocabulary),
        traffic=-(-passes // compute.max_batch) * written * float(weights),
    )


def _scoring(model: Model, plan: Plan, passes: int, length: int) -> Reading:
    """Return the cost of sequences whose every token is scored, so that the head works on all tokens."""
    decoder, precision, compute = model.decoder, model.precision, plan.suite.compute
    held = held_quantization(precision.quantization, plan.generator, compute.tensor_parallel)
    tokens = passes * length
    return Reading(
        passes=passes,
        read=tokens,
        operations=2.0 * tokens * (decoder.linear_parameters + decoder.hidden * decoder.vocabulary),
        traffic=-(-passes // compute.max_batch) * float(decoder.weight_bytes(precision.dtype, held)),
    )


def _sum(parts: Iterable[Reading]) -> Reading:
    listed = list(parts)
    return Reading(
        passes=sum(part.passes for part in listed),
        read=sum(part.read for part in listed),
        written=sum(part.written for part in listed),
        operations=sum(part.operations for part in listed),
        traffic=sum(part.traffic for part in listed),
    )
