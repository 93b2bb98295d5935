"""Canary of a trained adapter, computed with the model that trained it."""

from __future__ import annotations

from torch import Tensor

from benchmark.generation.canary import Canary
from benchmark.models.chat import ChatFormat
from benchmark.training.served import ServedModel
from tasks.base import TaskWorld

_SEQUENCES = 4
_TOKENS = 512


def canary_of(adapter: Tensor, model: ServedModel, world: TaskWorld) -> Canary:
    """Return the canary of a flat adapter: log-probabilities of fixed sequences without and with the adapter."""
    sequences = canary_sequences(world, model.chat)
    without = model.stacked.logprobs(sequences)
    model.stacked.attach(adapter)
    applied = model.stacked.logprobs(sequences)
    model.stacked.clear()
    return Canary(tuple(sequences), _nested(without), _nested(applied))


def canary_sequences(world: TaskWorld, chat: ChatFormat) -> list[tuple[int, ...]]:
    """Return the fixed token sequences on which engine and training code must agree."""
    probes = world.probes()
    chosen = [probes[i * (len(probes) - 1) // (_SEQUENCES - 1)] for i in range(_SEQUENCES)]
    longest = min(chat.max_length - 1, _TOKENS)
    prompts = [chat.prompt_ids(probe.instruction, name=probe.id) for probe in chosen]
    return [(*ids, *ids[:-1])[:longest] for ids in prompts]


def _nested(rows: list[list[float]]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(row) for row in rows)
