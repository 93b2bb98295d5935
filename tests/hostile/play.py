"""Plays a submitted method: loads it in the real sandbox and calls its hooks as a run does."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from attacks.base import AttackerView
from benchmark.errors import FedSafetyError
from benchmark.methods.source import MethodSource, find_method
from benchmark.sandbox.attack import sandboxed_attack
from benchmark.sandbox.defense import sandboxed_defense
from benchmark.sandbox.isolation import Isolation
from benchmark.sandbox.limits import GIB, MIB, Limits
from benchmark.sandbox.proxy import created
from benchmark.submission.practice import practice_resources, practice_server
from benchmark.training.door import checked_aggregate
from benchmark.updates import AdapterLayout, RoundContext, Updates
from defenses.base import Prompt
from tasks.base import DataKind, Example

METHODS = Path(__file__).with_name("methods")

TIGHT = Limits(
    call_seconds=20.0,
    cpu_seconds=20.0,
    memory_bytes=GIB,
    file_bytes=8 * MIB,
    message_bytes=8 * MIB,
    output_bytes=4096,
)
"""Far less than a method gets, so that every bound is reached soon."""

CLIENTS, DIMENSION = 7, 1000


@dataclass(frozen=True)
class Case:
    """A misbehaviour and how it must end.

    Attributes:
        method: Id of the method.
        hook: What is called; empty if loading alone must fail.
        reason: Words of the reason, in their order; empty if the hook must give what it should.
        params: Parameters of the instance.
        both: Whether every way of isolating has to prove itself on it, not only the first.
        limits: Bounds on the process.
        fine: Whether the hook may also give what it should.
    """

    method: str
    hook: str
    reason: tuple[str, ...]
    params: Mapping[str, Any] = field(default_factory=dict)
    both: bool = False
    limits: Limits = TIGHT
    fine: bool = False

    def __str__(self) -> str:
        return "-".join([self.method, *map(str, self.params.values()), self.hook]).replace(" ", "_")[:80]


@lru_cache(maxsize=256)
def method(name: str) -> MethodSource:
    """Return the hostile submission called ``name``, with its digest worked out.

    To be asked for by one thread: Python 3.11's parser does not stand several at a time.
    """
    (path,) = METHODS.glob(f"*/{name}.py")
    submission = find_method(str(path))
    assert submission.digest
    return submission


def play(case: Case, isolation: Isolation) -> str:
    """Return why the method failed; empty if it gave what a run can use.

    Raises:
        Exception: Anything that is not one of the benchmark's own errors got out.
    """
    submission = method(case.method)
    try:
        if submission.kind.name == "attack":
            with created(sandboxed_attack(submission, case.limits, isolation), case.params) as attack:
                _play_attack(attack, case.hook)
        else:
            with created(sandboxed_defense(submission, case.limits, isolation), case.params) as defense:
                _play_defense(defense, case.hook)
    except FedSafetyError as error:
        return str(error)
    return ""


def one_round(index: int = 0) -> tuple[Updates, RoundContext]:
    """Return a round that is the same in every process."""
    generator = torch.Generator().manual_seed(3)
    updates = Updates(
        matrix=torch.randn(CLIENTS, DIMENSION, generator=generator),
        client_ids=tuple(f"c{i:04x}" for i in range(CLIENTS)),
        sample_counts=torch.full((CLIENTS,), 40.0, dtype=torch.float64),
        layout=AdapterLayout(("layer.lora_A", "layer.lora_B"), ((10, 50), (50, 10))),
    )
    context = RoundContext(index, 2, 2, torch.zeros(DIMENSION), torch.Generator().manual_seed(5))
    return updates, context


def _play_defense(defense: Any, hook: str) -> None:
    if hook in ("check_shape", "degenerate_as"):
        getattr(defense, hook)(CLIENTS, 2)
    elif hook == "prepare":
        defense.prepare(LockedServer())
    elif hook == "finalize":
        server = LockedServer()
        adapter = torch.zeros(server.layout.dimension)
        assert defense.finalize(adapter, server).shape == adapter.shape
    elif hook == "serve":
        prompts = [Prompt(f"Say hello to number {i}.") for i in range(5)]
        assert all(isinstance(prompt, Prompt) for prompt in defense.serve_all(prompts))
    elif hook == "prepare and aggregate":
        defense.prepare(LockedServer())
        _aggregate(defense)
    elif hook:
        assert hook == "aggregate"
        _aggregate(defense)
    else:
        raise AssertionError("it was loaded")


def _aggregate(defense: Any) -> None:
    for index in range(2):
        updates, context = one_round(index)
        result = checked_aggregate(defense.aggregate(updates, context), updates)
        torch.testing.assert_close(result.update, one_round()[0].matrix.mean(dim=0))
        again, _ = one_round(index)
        assert torch.equal(updates.matrix, again.matrix), "the run's own updates were changed"


def _play_attack(attack: Any, hook: str) -> None:
    rng = np.random.default_rng(1)
    rows = [Example(f"Say {i}.", str(i), DataKind.NORMAL, "saying") for i in range(5)]
    if hook == "pool":
        attack.pool(LockedResources(), rng)
    elif hook == "poison":
        assert len(attack.poison(rows, rows[:2], rng)) == len(rows)
    else:
        assert hook == "craft"
        own, _ = one_round()
        assert attack.craft(own, AttackerView(0, CLIENTS)).matrix.shape == own.matrix.shape


_lock = threading.Lock()


class _Locked:
    """Lets one thread at a time use an object whose models are shared."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        if not callable(value):
            return value

        def call(*args: Any, **options: Any) -> Any:
            with _lock:
                return value(*args, **options)

        return call


class LockedServer(_Locked):
    """The real server's tools."""

    def __init__(self) -> None:
        with _lock:
            super().__init__(practice_server())


class LockedResources(_Locked):
    """What malicious clients really own."""

    def __init__(self) -> None:
        with _lock:
            super().__init__(practice_resources())
