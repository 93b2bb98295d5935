"""Cost of answering all probes, of likelihoods beside the answers, and of judging the answers."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from benchmark.errors import InputsMissingError
from benchmark.execution.likelihoods import continuation_ids, continuations
from benchmark.execution.plan import Plan
from benchmark.generation.needs import held_quantization
from benchmark.judges.base import judges
from benchmark.models.chat import ChatFormat
from benchmark.models.configuration import Model
from benchmark.suites.suite import Suite
from defenses.base import Prompt
from tasks.base import Probe, ProbeKind
from tasks.hub.settings import ProbeSource

PROMPT_TOKENS = 128
"""Tokens of a prompt with its template, where its data set or the tokenizer is not on this machine."""

PROBE_SAMPLE = 64
"""Most prompts of a probe set whose tokens are counted."""

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
    """Probes of one kind with one limit of answers, in tokens, and one number of measured continuations each.

    Attributes:
        kind: Their kind.
        count: Number of probes.
        answer: Limit of an answer, and of a continuation.
        measured: Measured continuations of each probe.
        prompt: Mean tokens of a prompt.
        scored: Mean tokens of a prompt with a measured continuation; ``None`` for the assumed length.
    """

    kind: ProbeKind
    count: int
    answer: int
    measured: int = 0
    prompt: float = PROMPT_TOKENS
    scored: float | None = None

    @property
    def sequence(self) -> float:
        """Mean tokens of a measured sequence: the prompt with a whole reference, or with an opening."""
        if self.scored is not None:
            return self.scored
        return self.prompt + (self.answer if self.kind is ProbeKind.PERPLEXITY else min(self.answer, OPENING_TOKENS))


def probe_sets(plan: Plan, chat: ChatFormat | None = None) -> list[ProbeSet]:
    """Return the probes of a plan, by the suite's limits if they are not on this machine.

    Args:
        plan: The plan.
        chat: Chat format of the answering model, to count the tokens of prompts; without one, their length is assumed.
    """
    groups: dict[tuple[ProbeKind, int, int], list[Probe]] = defaultdict(list)
    try:
        openings = plan.world.refusal_openings
        for probe in plan.world.probes():
            groups[probe.kind, probe.max_new_tokens, len(continuations(probe, openings))].append(probe)
    except InputsMissingError:
        sources = plan.suite.data.probes if plan.suite.data else ()
        return [ProbeSet(p.kind, p.limit or UNKNOWN_PROBES, p.max_new_tokens, _measured(p, plan)) for p in sources]
    sets = []
    for (kind, answer, measured), probes in groups.items():
        counted = ProbeSet(kind, len(probes), answer, measured)
        sets.append(counted if chat is None else _with_lengths(counted, probes, chat, openings))
    return sets


def _with_lengths(counted: ProbeSet, probes: Sequence[Probe], chat: ChatFormat, openings: Sequence[str]) -> ProbeSet:
    """Return a probe set with the mean lengths of a sample of its probes, which is spread evenly."""
    size = min(len(probes), PROBE_SAMPLE)
    sample = [probes[place * len(probes) // size] for place in range(size)]
    prompts = [len(chat.prompt_ids(probe.instruction, name=probe.id)) for probe in sample]
    scored = [
        len(continuation_ids(chat, Prompt(probe.instruction), each, probe.max_new_tokens)[0])
        for probe in sample
        for each in continuations(probe, openings)
    ]
    return replace(counted, prompt=sum(prompts) / size, scored=sum(scored) / len(scored) if scored else None)


def _measured(source: ProbeSource, plan: Plan) -> int:
    """Return the number of measured continuations of each probe of a set that is not on this machine."""
    if source.kind is ProbeKind.PERPLEXITY:
        return 1
    openings = len(plan.world.refusal_openings)
    return openings + 1 if openings and "target" in source.source.columns else 0


def answering(plan: Plan, models: Mapping[str, Model], probes: Mapping[str, Sequence[ProbeSet]]) -> Reading:
    """Return the cost of all response sets whose starting model is in ``models``; ``probes`` are by starting model."""
    return added(
        reading(models[start], plan, count * probe.count, probe.prompt, probe.answer)
        for start, count in _sets(plan, models).items()
        for probe in probes[start]
        if probe.kind is not ProbeKind.PERPLEXITY
    )


def measuring(plan: Plan, models: Mapping[str, Model], probes: Mapping[str, Sequence[ProbeSet]]) -> Reading:
    """Return the cost of the likelihoods of all response sets whose starting model is in ``models``."""
    return added(
        _scoring(models[start], plan, count * probe.count * probe.measured, probe.sequence)
        for start, count in _sets(plan, models).items()
        for probe in probes[start]
    )


def _sets(plan: Plan, models: Mapping[str, Model]) -> Counter[str]:
    """Return the number of response sets of each starting model."""
    starts = {cell.response_key: cell.scenario.start for cell in plan.cells if cell.runs}
    return Counter(start for start in starts.values() if start in models)


def judging(plan: Plan, models: Mapping[str, Model], probes: Iterable[ProbeSet]) -> dict[str, Reading]:
    """Return the cost of all verdicts by judge, for judges whose model is in ``models``."""
    sets = len({cell.response_key for cell in plan.cells if cell.runs})
    listed = list(probes)
    return {
        judge: added(
            reading(
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


def reading(
    model: Model, plan: Plan, passes: int, read: float, written: int, *, batch: int = 0, training: bool = False
) -> Reading:
    """Return the cost of answers.

    Args:
        model: The answering model.
        plan: The plan, whose engine and settings decide how weights are held.
        passes: Sequences.
        read: Mean tokens of a prompt.
        written: Tokens of an answer.
        batch: Sequences at once; 0 for the suite's number.
        training: Whether a training process generates data, with the weights that it holds.
    """
    decoder, precision = model.decoder, model.precision
    tokens = passes * (read + written)
    compute = plan.suite.compute
    held = precision.quantization
    if not training:
        held = held_quantization(precision.quantization, plan.generator, compute.tensor_parallel)
    weights = decoder.weight_bytes(precision.dtype, held)
    return Reading(
        passes=passes,
        read=round(passes * read),
        written=passes * written,
        # In a prompt, the head works on the last token only.
        operations=2.0 * (tokens * decoder.linear_parameters + passes * written * decoder.hidden * decoder.vocabulary),
        traffic=-(-passes // (batch or compute.max_batch)) * written * float(weights),
    )


def _scoring(model: Model, plan: Plan, passes: int, length: float) -> Reading:
    """Return the cost of sequences whose every token is scored, so that the head works on all tokens."""
    decoder, precision, compute = model.decoder, model.precision, plan.suite.compute
    held = held_quantization(precision.quantization, plan.generator, compute.tensor_parallel)
    tokens = passes * length
    return Reading(
        passes=passes,
        read=round(tokens),
        operations=2.0 * tokens * (decoder.linear_parameters + decoder.hidden * decoder.vocabulary),
        traffic=-(-passes // compute.max_batch) * float(decoder.weight_bytes(precision.dtype, held)),
    )


def added(parts: Iterable[Reading]) -> Reading:
    """Return the sum of costs."""
    listed = list(parts)
    return Reading(
        passes=sum(part.passes for part in listed),
        read=sum(part.read for part in listed),
        written=sum(part.written for part in listed),
        operations=sum(part.operations for part in listed),
        traffic=sum(part.traffic for part in listed),
    )
