"""Supervised tuning of one adapter on the server's side: order of rows, rates, and the training of an alignment."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from torch import Tensor

from benchmark.models.rows import TokenRow
from benchmark.suites.alignment import AlignmentSettings
from benchmark.training.served import ServedModel
from defenses.base import Objective
from tasks.base import Example


class Rates(Protocol):
    """Settings with a rate that falls along a cosine."""

    @property
    def learning_rate(self) -> float:
        """Initial rate."""

    @property
    def learning_rate_floor(self) -> float:
        """Rate the cosine ends at."""


def cosine(settings: Rates, progress: float) -> float:
    """Return the learning rate at ``progress`` (0 to 1) of a cosine from the initial rate to the floor."""
    span = settings.learning_rate - settings.learning_rate_floor
    return settings.learning_rate_floor + span * 0.5 * (1 + math.cos(math.pi * progress))


def batches_of(rows: Sequence[TokenRow], steps: int, size: int, rng: np.random.Generator) -> list[list[TokenRow]]:
    """Return ``steps`` batches of ``size`` rows, drawn in passes without replacement."""
    order: list[int] = []
    while len(order) < steps * size:
        order += rng.permutation(len(rows)).tolist()
    return [[rows[i] for i in order[k * size : (k + 1) * size]] for k in range(steps)]


def rates_of(settings: AlignmentSettings) -> list[float]:
    """Return the learning rate of each step of an alignment."""
    return [cosine(settings, step / settings.steps) for step in range(settings.steps)]


def align(
    model: ServedModel,
    settings: AlignmentSettings,
    adapter: Tensor,
    examples: Sequence[Example],
    rng: np.random.Generator,
    dropout_seed: int,
    objective: Objective | None = None,
) -> Tensor:
    """Return ``adapter`` (flat, ``[d]``) trained on ``examples`` with the settings of an alignment.

    Args:
        model: The start model.
        settings: Steps, batch size, rates and length limit.
        adapter: Flat adapter before the first step.
        examples: Training rows, at least one.
        rng: Stream of the order of rows.
        dropout_seed: Seed of the adapters' dropout.
        objective: The loss; by default the mean cross-entropy.
    """
    rows = [model.chat.row(example, settings.max_length) for example in examples]
    trained = model.stacked.train(
        adapter,
        [batches_of(rows, settings.steps, settings.batch_size, rng)],
        learning_rate=rates_of(settings),
        weight_decay=settings.weight_decay,
        clip_norm=settings.clip_norm,
        dropout_seed=dropout_seed,
        objective=objective,
    )
    return trained.adapters[0].to(adapter.device)
