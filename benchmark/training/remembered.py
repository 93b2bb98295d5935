"""A trainer that remembers the first round of a federation, so that rules that share the round train it once.

Local training is a pure function of the starting adapter, the clients' rows and the settings. All rules start from the
same adapter, so their first rounds are equal, and with one round all of their training is. Later rounds start from
adapters that differ from rule to rule, so they are not remembered.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmark import PROTOCOL_VERSION
from benchmark.keys import content_key
from benchmark.models.rows import TokenRow
from benchmark.records.remembered import RememberedRound, RememberedRounds
from benchmark.training.federation import LocalTrainer
from benchmark.training.stacked import LocalTraining
from benchmark.updates import AdapterLayout


class RememberingTrainer:
    """A :class:`benchmark.training.federation.LocalTrainer` that reads its first result instead of training it again.

    Args:
        open_trainer: Opens the trainer that trains what is not remembered.
        layout: Layout of the adapters.
        memory: Remembered rounds, or ``None`` to train every round.
        circumstances: What a result depends on beside the arguments of :meth:`train`, such as the model and the number
            format; JSON-like.

    Attributes:
        layout: Layout of the adapters.
        owed_seconds: Seconds of remembered training that this trainer did not spend, less the seconds that it spent on
            waiting, reading and writing. Wall time plus these seconds is the time that training takes anew, whichever
            training of a run came first.
    """

    def __init__(
        self,
        open_trainer: Callable[[], LocalTrainer],
        layout: AdapterLayout,
        memory: RememberedRounds | None,
        circumstances: Mapping[str, Any],
    ) -> None:
        self.layout = layout
        self.owed_seconds = 0.0
        self._open_trainer, self._memory, self._circumstances = open_trainer, memory, circumstances
        self._trainer: LocalTrainer | None = None

    def train(
        self,
        start: Tensor,
        batches: Sequence[Sequence[Sequence[TokenRow]]],
        *,
        learning_rate: Sequence[float] | float,
        weight_decay: float = 0.0,
        clip_norm: float | None = None,
        dropout_seed: int | Sequence[int] | None = None,
    ) -> LocalTraining:
        """Return every client's adapter after training; see :meth:`benchmark.training.stacked.StackedModel.train`."""
        settings: dict[str, Any] = {
            "learning_rate": learning_rate,
            "weight_decay": weight_decay,
            "clip_norm": clip_norm,
            "dropout_seed": dropout_seed,
        }
        anew = partial(self._train, start, batches, settings)
        if self._memory is None:
            return anew()
        memory, self._memory = self._memory, None  # later rounds are trained
        began = time.perf_counter()
        key = round_key(start, batches, settings | {"circumstances": self._circumstances})
        local, seconds = _remembered(memory, key, anew)
        self.owed_seconds += seconds - (time.perf_counter() - began)
        return LocalTraining(local.adapters.to(start.device), local.losses)

    def _train(
        self, start: Tensor, batches: Sequence[Sequence[Sequence[TokenRow]]], settings: Mapping[str, Any]
    ) -> LocalTraining:
        if self._trainer is None:
            self._trainer = self._open_trainer()
        return self._trainer.train(start, batches, **settings)


def round_key(start: Tensor, batches: Sequence[Sequence[Sequence[TokenRow]]], settings: Mapping[str, Any]) -> str:
    """Return the key of a round of local training.

    Args:
        start: Adapter that all clients start from, ``[d]``.
        batches: Rows of each client and step.
        settings: What else the result depends on; JSON-like.
    """
    numbers = start.detach().cpu().contiguous().numpy()
    rows = [[[[row.ids, row.response_start] for row in batch] for batch in client] for client in batches]
    return content_key(
        {
            "artefact": "local training",
            "protocol": PROTOCOL_VERSION,
            "start": [numbers.dtype.str, numbers.shape, hashlib.sha256(numbers.data).hexdigest()],
            "rows": rows,
            "settings": dict(settings),
        }
    )


def _remembered(memory: RememberedRounds, key: str, train: Callable[[], LocalTraining]) -> tuple[LocalTraining, float]:
    """Return the result under a key, read or made by ``train``, and the seconds that ``train`` took for it."""
    if not memory.limit:
        entry = memory.read(key)
        return _result(entry) if entry else _timed(train)
    with memory.claimed(key):
        if entry := memory.read(key):
            return _result(entry)
        local, seconds = _timed(train)
        memory.write(key, RememberedRound(local.adapters.cpu().numpy(), local.losses.cpu().numpy(), seconds))
        return local, seconds


def _result(entry: RememberedRound) -> tuple[LocalTraining, float]:
    return LocalTraining(torch.from_numpy(entry.adapters), torch.from_numpy(entry.losses)), entry.seconds


def _timed(train: Callable[[], LocalTraining]) -> tuple[LocalTraining, float]:
    began = time.perf_counter()
    local = train()
    return local, time.perf_counter() - began
