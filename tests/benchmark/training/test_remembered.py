"""A trainer that remembers: the first round is read where it is known, and is equal to training anew."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmark.models.loading import load_causal_lm
from benchmark.models.lora import initial_adapter
from benchmark.models.rows import TokenRow
from benchmark.records.remembered import RememberedRounds
from benchmark.seeds import torch_stream
from benchmark.suites.settings import LoraSettings
from benchmark.training.federation import LocalTrainer
from benchmark.training.remembered import RememberingTrainer
from benchmark.training.sequential import SequentialModel
from benchmark.training.stacked import LocalTraining, StackedModel
from benchmark.updates import AdapterLayout

LAYOUT = AdapterLayout(("layer.lora_A", "layer.lora_B"), ((1, 2), (2, 1)))
START = torch.tensor([1.0, 2.0, 3.0, 4.0])
BATCHES = [[[TokenRow((client, step, 7), 1)] for step in range(2)] for client in range(3)]
SETTINGS: dict[str, Any] = {"learning_rate": 1e-3, "weight_decay": 0.1, "clip_norm": 1.0, "dropout_seed": [1, 2, 3]}


class Counting:
    """A trainer that counts its calls; every call takes 5 seconds on the clock and has another result."""

    layout = LAYOUT

    def __init__(self, clock: list[float]) -> None:
        self.calls, self.clock = 0, clock

    def train(self, start: Tensor, batches: Sequence[Sequence[Sequence[TokenRow]]], **_: Any) -> LocalTraining:
        self.calls += 1
        self.clock[0] += 5
        return LocalTraining(start + torch.full((len(batches), 4), 0.1 * self.calls), torch.ones(len(batches)).double())


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that moves one second with every look at it."""
    now = [0.0]

    def look() -> float:
        now[0] += 1
        return now[0]

    monkeypatch.setattr(time, "perf_counter", look)
    return now


@pytest.fixture
def memory(tmp_path: Path) -> RememberedRounds:
    return RememberedRounds.of(tmp_path, 1 << 20)


def remembering(trainer: LocalTrainer, memory: RememberedRounds | None, **circumstances: Any) -> RememberingTrainer:
    return RememberingTrainer(lambda: trainer, trainer.layout, memory, circumstances)


def test_the_first_round_is_trained_once_and_later_rounds_always(clock: list[float], memory: RememberedRounds) -> None:
    trainer = Counting(clock)
    first, second = remembering(trainer, memory), remembering(trainer, memory)
    made, read = (each.train(START, BATCHES, **SETTINGS) for each in (first, second))
    assert trainer.calls == 1
    assert torch.equal(made.adapters, read.adapters)
    assert torch.equal(made.losses, read.losses)
    assert read.adapters.dtype == torch.float32
    for each in (first, second):
        each.train(START, BATCHES, **SETTINGS)
    assert trainer.calls == 3
    assert memory.used == {path.stem for path in memory.folder.iterdir()}


def test_the_seconds_of_a_training_do_not_depend_on_who_made_it(clock: list[float], memory: RememberedRounds) -> None:
    trainer, seconds = Counting(clock), []
    for _ in range(3):
        each, began = remembering(trainer, memory), clock[0]
        each.train(START, BATCHES, **SETTINGS)
        seconds.append(clock[0] - began + each.owed_seconds)
    assert trainer.calls == 1
    # The training itself: 5 seconds and one look at the clock. The first look comes before the clock of the trainer.
    assert seconds == [7.0, 7.0, 7.0]


def test_without_memory_or_room_every_training_is_done(clock: list[float], memory: RememberedRounds) -> None:
    trainer = Counting(clock)
    full = RememberedRounds(memory.folder, 10)
    for each in (None, RememberedRounds(memory.folder, 0), full, full):
        remembering(trainer, each).train(START, BATCHES, **SETTINGS)
    assert trainer.calls == 4
    assert not list(memory.folder.glob("*"))
    remembering(trainer, memory).train(START, BATCHES, **SETTINGS)
    # A memory without room still reads what a former run has left.
    remembering(trainer, RememberedRounds(memory.folder, 0)).train(START, BATCHES, **SETTINGS)
    assert trainer.calls == 5


def test_a_damaged_entry_is_made_again(clock: list[float], memory: RememberedRounds) -> None:
    trainer = Counting(clock)
    remembering(trainer, memory).train(START, BATCHES, **SETTINGS)
    (path,) = memory.folder.iterdir()
    path.write_bytes(path.read_bytes()[:-8])
    again = remembering(trainer, memory).train(START, BATCHES, **SETTINGS)
    assert trainer.calls == 2
    assert torch.equal(remembering(trainer, memory).train(START, BATCHES, **SETTINGS).adapters, again.adapters)
    assert trainer.calls == 2


@pytest.mark.parametrize(
    ("start", "batches", "settings", "circumstances"),
    [
        (START + 1e-7, BATCHES, {}, {}),
        (START.double(), BATCHES, {}, {}),
        (START, BATCHES[:2], {}, {}),
        (START, BATCHES[::-1], {}, {}),
        (START, [client[::-1] for client in BATCHES], {}, {}),
        (START, [[[TokenRow(row.ids, 2) for row in batch] for batch in client] for client in BATCHES], {}, {}),
        (START, [[batch * 2 for batch in client] for client in BATCHES], {}, {}),
        (START, BATCHES, {"learning_rate": 2e-3}, {}),
        (START, BATCHES, {"learning_rate": [1e-3, 1e-3]}, {}),
        (START, BATCHES, {"weight_decay": 0.0}, {}),
        (START, BATCHES, {"clip_norm": None}, {}),
        (START, BATCHES, {"dropout_seed": [1, 2, 4]}, {}),
        (START, BATCHES, {}, {"model": "another"}),
    ],
)
def test_whatever_a_result_depends_on_is_in_its_key(
    clock: list[float],
    memory: RememberedRounds,
    start: Tensor,
    batches: list[list[list[TokenRow]]],
    settings: dict[str, Any],
    circumstances: dict[str, Any],
) -> None:
    trainer = Counting(clock)
    remembering(trainer, memory, model="a").train(START, BATCHES, **SETTINGS)
    remembering(trainer, memory, **{"model": "a", **circumstances}).train(start, batches, **{**SETTINGS, **settings})
    assert trainer.calls == 2
    assert len(list(memory.folder.iterdir())) == 2


@pytest.mark.parametrize("mode", ["stacked", "sequential"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_remembered_round_equals_training_anew_bit_for_bit(
    checkpoints: Path, memory: RememberedRounds, mode: str, dtype: str
) -> None:
    settings = LoraSettings(rank=2, alpha=4, dropout=0.2)
    model = load_causal_lm(checkpoints / "chat", dtype=dtype)
    trainer: LocalTrainer = (StackedModel if mode == "stacked" else SequentialModel)(model, settings, 0)
    start = initial_adapter(trainer.layout, torch_stream(1, "test"))
    rows = [[[TokenRow((1, 6 + client, 7 + step, 9, 2), 2)] * 2 for step in range(3)] for client in range(3)]
    anew = trainer.train(start, rows, **SETTINGS)
    for _ in range(2):
        found = remembering(trainer, memory).train(start, rows, **SETTINGS)
        assert found.adapters.dtype == anew.adapters.dtype
        assert torch.equal(found.adapters, anew.adapters)
        assert torch.equal(found.losses, anew.losses)
    assert len(list(memory.folder.iterdir())) == 1
