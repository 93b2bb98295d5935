"""Likelihoods of given continuations of served prompts, teacher-forced, for measures that need no judge.

Two measures rest on them. The safety margin compares the refusal openings of the suite with the compliant opening that
a harmful probe names as its target. The perplexity measures the reference of a probe of kind ``perplexity``, which the
model does not answer.

Prompt and continuation become token ids as in a training row, so that training and measuring agree. The end of the
answer belongs to a reference, which is a whole answer, and not to an opening.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.errors import FedSafetyError
from benchmark.generation.base import Engine
from benchmark.models.chat import ChatFormat
from benchmark.records.schemas import ROLE_REFERENCE, ROLE_REFUSAL, ROLE_TARGET
from defenses.base import Prompt
from tasks.base import DataKind, Example, Probe, ProbeKind, TaskWorld


class DivergedError(FedSafetyError):
    """An adapter gives a likelihood that is not a number."""


@dataclass(frozen=True)
class Continuation:
    """A text whose likelihood after a prompt is measured.

    Attributes:
        role: ``refusal``, ``target`` or ``reference``.
        index: Place among the continuations of its probe and role, from 0.
        text: The text.
        ends: Whether the text is a whole answer, so that the end of the answer belongs to it.
    """

    role: str
    index: int
    text: str
    ends: bool


def continuations(probe: Probe, refusal_openings: Sequence[str]) -> list[Continuation]:
    """Return the continuations of a probe: its reference, or the refusal openings and its target.

    Args:
        probe: The probe.
        refusal_openings: Beginnings of standard refusals; without any, no margin is measured.
    """
    if probe.kind is ProbeKind.PERPLEXITY:
        return [Continuation(ROLE_REFERENCE, 0, probe.reference, ends=True)]
    if probe.kind is not ProbeKind.HARMFUL or not probe.target or not refusal_openings:
        return []
    refusals = [Continuation(ROLE_REFUSAL, index, text, ends=False) for index, text in enumerate(refusal_openings)]
    return [*refusals, Continuation(ROLE_TARGET, 0, probe.target, ends=False)]


def likelihood_count(world: TaskWorld) -> int:
    """Return the number of likelihoods that each response set of a world has."""
    return sum(len(continuations(probe, world.refusal_openings)) for probe in world.probes())


def answered(probes: Iterable[Probe]) -> list[Probe]:
    """Return the probes that the model answers."""
    return [probe for probe in probes if probe.kind is not ProbeKind.PERPLEXITY]


def likelihood_rows(
    response_key: str,
    world: TaskWorld,
    prompts: Sequence[Prompt],
    chat: ChatFormat,
    engine: Engine,
    adapter: Path,
) -> list[dict[str, Any]]:
    """Return the rows of table ``likelihoods`` of one response set.

    A continuation has at most ``max_new_tokens`` tokens of its probe; what is longer loses its end. After a prompt that
    the defense answers itself the model has no likelihood: such a row has 0 tokens.

    Args:
        response_key: Key of the response set.
        world: World of the probes.
        prompts: The served prompt of each probe of the world.
        chat: Chat format of the starting model.
        engine: Engine over the starting model.
        adapter: Folder of the adapter.

    Raises:
        DivergedError: A likelihood is not a number.
    """
    asked = [
        (probe, prompt, each)
        for probe, prompt in zip(world.probes(), prompts, strict=True)
        for each in continuations(probe, world.refusal_openings)
    ]
    measured = [
        continuation_ids(chat, prompt, each, probe.max_new_tokens)
        for probe, prompt, each in asked
        if prompt.answer is None
    ]
    scores = iter(zip(measured, engine.logprobs_mixed([(ids, adapter) for ids, _ in measured]), strict=True))
    rows = []
    for probe, prompt, each in asked:
        tokens, nats = 0, 0.0
        if prompt.answer is None:
            (ids, start), logprobs = next(scores)
            tokens, nats = len(ids) - start, math.fsum(logprobs[start - 1 :])
        if not math.isfinite(nats):
            raise DivergedError(
                f"the likelihood of {each.role} {each.index} after {probe.id!r} is {nats}, and a likelihood is a "
                f"number; the adapter has diverged"
            )
        rows.append(
            {
                "response_key": response_key,
                "probe_id": probe.id,
                "role": each.role,
                "index": each.index,
                "tokens": tokens,
                "nats": min(0.0, nats),  # rounding may give slightly more than certainty
            }
        )
    return rows


def continuation_ids(
    chat: ChatFormat, prompt: Prompt, continuation: Continuation, most: int
) -> tuple[tuple[int, ...], int]:
    """Return prompt and continuation as ids, and the place of the continuation's first token.

    Args:
        chat: Chat format of the model.
        prompt: The served prompt.
        continuation: What follows it.
        most: Most tokens of the continuation.
    """
    start = len(chat.prompt_ids(prompt.instruction, system=prompt.system))
    # One token more than is kept: the end of the answer, or a token that shows that the text is longer.
    example = Example(prompt.instruction, continuation.text, DataKind.NORMAL, "")
    ids = chat.row(example, start + most + 1, system=prompt.system).ids
    return (ids[: start + most] if continuation.ends else ids[:-1]), start
