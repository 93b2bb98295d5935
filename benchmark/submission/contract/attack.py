"""The contract of an attack: rows of its pool, of one malicious client, and the updates that malicious clients send.

Nothing needs to be checked about honest clients: no hook is given anything of theirs.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from attacks.base import Attack, AttackerResources, AttackerView, AttackInfo
from benchmark.errors import FedSafetyError
from benchmark.seeds import stream
from benchmark.submission.contract.examination import (
    Check,
    Examination,
    Outcome,
    Subject,
    all_threads,
    fails,
    passes,
    warns,
)
from benchmark.submission.contract.inputs import left_behind, same_bits
from benchmark.submission.contract.memory import peak_memory
from benchmark.submission.contract.report import Part, ShapeCost, Verdict
from benchmark.submission.contract.rounds import ROUNDS, client_names, layout_of, sent
from benchmark.submission.practice import PRACTICE_SEED, practice_resources
from benchmark.suites.suite import find_suite
from benchmark.updates import Updates
from tasks.base import DataKind, Example, TaskWorld, task_worlds

DIMENSION = 4096
"""Numbers in an update of the small rounds."""
SCALES = ((3, 1 << 20), (3, 1 << 24))
"""Malicious clients and numbers in an update at which time and memory are measured."""
_RANDOM = "draw random numbers from the rng that is passed in only, and depend on no clock, hash or global state"
_ROWS = 60
"""Rows of a client in the check."""
_CLIENTS = 3
_KINDS = {DataKind.NORMAL, DataKind.ALIGNED, DataKind.UNALIGNED}


@dataclass(frozen=True)
class AttackTrials:
    """Inputs that the checks of an attack share.

    Attributes:
        subject: The attack.
        examination: Record of the models that generate.
    """

    subject: Subject[AttackInfo, Attack]
    examination: Examination

    @cached_property
    def pool(self) -> list[Example]:
        """The malicious rows, as a fresh instance makes them."""
        with self.subject.fresh("pool") as attack:
            return attack.pool(self.resources(), stream(PRACTICE_SEED, "attack", "pool"))

    @cached_property
    def world(self) -> TaskWorld:
        """The embedded world."""
        return task_worlds.get(find_suite("micro").world).create()

    def resources(self) -> AttackerResources:
        """Return the tools of malicious clients; they record in the examination whether their model generates."""
        return practice_resources(self.examination.observed)

    def normal(self, client: int) -> list[Example]:
        """Return the rows that a client would hold were it honest."""
        rng = stream(PRACTICE_SEED, "client-data", client)
        return self.world.benign(_ROWS, rng, refusal_share=0.1, task_shares=None)


def attack_checks(
    subject: Subject[AttackInfo, Attack],
    large: Subject[AttackInfo, Attack],
    examination: Examination,
    scales: Sequence[tuple[int, int]] = SCALES,
) -> list[Check]:
    """Return the checks of an attack, in order; what is measured is added to the examination.

    Args:
        subject: The attack.
        large: The same with more time for a call.
        examination: Where to add measurements.
        scales: Malicious clients and numbers in an update at which time and memory are measured.
    """
    trials = AttackTrials(subject, examination)
    rows = "return a list of Example with text in every field and a DataKind"
    checks = [
        Check(Part.CONTRACT, "pool", "pool() returns rows, the same ones each time", lambda: _pool(trials), rows),
        Check(
            Part.CONTRACT,
            "pool_without_evaluation",
            "no row of the pool names what only the evaluation may use",
            lambda: _leaks(trials),
            needs=("pool",),
        ),
        Check(
            Part.CONTRACT,
            "poison",
            "poison() returns as many rows as the client would hold, the same each time, and leaves its inputs alone",
            lambda: _poison(trials),
            rows,
            needs=("pool",),
        ),
        Check(
            Part.CONTRACT,
            "craft",
            "craft() returns updates of the same shape, the same bits each time, and leaves its inputs alone",
            lambda: _craft(trials),
            "return Updates with a float matrix of the shape of own.matrix",
        ),
        Check(
            Part.CONTRACT,
            "honest_clients_unseen",
            "what is sent does not depend on honest clients",
            lambda: passes("by construction: no hook is given anything of theirs"),
        ),
    ]
    checks += [
        _scale_check(AttackTrials(large, examination), examination, *scale)
        for scale in scales
        if subject.overrides("craft", Attack)
    ]
    return checks


def _pool(trials: AttackTrials) -> Outcome:
    first = trials.pool
    _check_rows("pool", first)
    with trials.subject.fresh("pool") as attack:
        again = attack.pool(trials.resources(), stream(PRACTICE_SEED, "attack", "pool"))
    if first != again:
        return fails("two fresh instances make different pools from the same random stream", _RANDOM)
    distinct = len({(row.instruction, row.response) for row in first})
    return passes(f"{len(first)} rows, {distinct} of them distinct")


def _leaks(trials: AttackTrials) -> Outcome:
    distinct = {f"{row.instruction} {row.response}" for row in trials.pool}
    leaks = sum(map(trials.world.leaks_evaluation, distinct))
    if leaks:
        return warns(
            f"{leaks} of {len(distinct)} distinct rows name an evaluation item; the count is shown beside the score",
            "leave such rows out if the method can know them; a generating model may produce them by itself",
        )
    return passes(f"none of {len(distinct)} distinct rows")


def _poison(trials: AttackTrials) -> Outcome:
    first, touched = _poisoned(trials)
    if touched:
        return fails("changed the lists that it was given in place", "make new lists: sorted(), list(), [...]")
    for rows in first:
        _check_rows("poison", rows)
        if len(rows) != _ROWS:
            return fails(
                f"gave a client {len(rows)} rows in place of {_ROWS}",
                "return as many rows as `normal` has: row counts would tell who is malicious",
            )
    if first != _poisoned(trials)[0]:
        return fails("two fresh instances give a client different rows from the same random stream", _RANDOM)
    counts = Counter(row.kind.value for rows in first for row in rows)
    return passes(f"of {counts.total()} rows {', '.join(f'{count} {kind}' for kind, count in sorted(counts.items()))}")


def _poisoned(trials: AttackTrials) -> tuple[list[list[Example]], bool]:
    """Return what a fresh instance makes of some clients' rows, and whether it changed the lists it was given."""
    results, touched = [], False
    with trials.subject.fresh("poison") as attack:
        for client in range(_CLIENTS):
            normal, pool = trials.normal(client), list(trials.pool)
            results.append(attack.poison(normal, pool, stream(PRACTICE_SEED, "attack", "poison", client)))
            touched |= normal != trials.normal(client) or pool != trials.pool
    return results, touched


def _check_rows(hook: str, rows: object) -> None:
    """Raise a :class:`FedSafetyError` unless ``rows`` is a list of training rows."""
    if not isinstance(rows, list):
        raise FedSafetyError(f"{hook}() returned {type(rows).__name__}; return a list of Example")
    for row in rows:
        if not isinstance(row, Example):
            raise FedSafetyError(f"{hook}() returned a row of type {type(row).__name__}; return Examples")
        if not all(isinstance(text, str) for text in (row.instruction, row.response, row.task)):
            raise FedSafetyError(f"{hook}() returned {row!r:.120}; instruction, response and task are texts")
        if row.kind not in _KINDS:
            raise FedSafetyError(f"{hook}() returned a row of kind {row.kind!r:.40}; it is a DataKind")


def _craft(trials: AttackTrials) -> Outcome:
    runs = [_crafted(trials) for _ in range(2)]
    for (one, touched), (other, _) in zip(*runs, strict=True):
        if touched:
            return fails(f"changed in place: {', '.join(sorted(touched))}", "work on copies: own.matrix * 2, .clone()")
        if not same_bits(one, other):
            return fails("two fresh instances send different updates", _RANDOM)
    if not all(torch.isfinite(matrix).all() for matrix, _ in runs[0]):
        return warns(
            "sends updates that are not finite: the server refuses them at the door, and they have no effect",
            "send finite numbers whose squares add up to less than the largest float32",
        )
    factors = [float(matrix.norm() / own.matrix.norm()) for (matrix, _), own in zip(runs[0], _own(), strict=True)]
    return passes(f"what is sent has {min(factors):.3g} to {max(factors):.3g} times the norm of what was trained")


def _crafted(trials: AttackTrials) -> list[tuple[Tensor, set[str]]]:
    """Return for each round what a fresh instance sends and which of its inputs it changed."""
    results = []
    with trials.subject.fresh("craft") as attack:
        for index, (own, before) in enumerate(zip(_own(), _own(), strict=True)):
            # Another adapter in every round, because attacks may look at its change.
            broadcast = torch.linspace(-0.01, 0.01, own.matrix.shape[1]) * index
            crafted = attack.craft(own, AttackerView(round_index=index, participants=10, broadcast=broadcast))
            _check_crafted(crafted, before)
            left = left_behind(attack) or {"matrix": own.matrix, "sample_counts": own.sample_counts}
            kept = {"matrix": before.matrix, "sample_counts": before.sample_counts}
            touched = {f"own.{name}" for name, tensor in kept.items() if not same_bits(tensor, left[name])}
            results.append((crafted.matrix.detach().to(before.matrix.dtype), touched))
    return results


def _check_crafted(crafted: object, own: Updates) -> None:
    if not isinstance(crafted, Updates) or not isinstance(crafted.matrix, Tensor):
        raise FedSafetyError(f"craft() returned {type(crafted).__name__}; return Updates")
    if crafted.matrix.shape != own.matrix.shape or not crafted.matrix.is_floating_point():
        raise FedSafetyError(
            f"craft() returned {crafted.matrix.dtype} of shape {tuple(crafted.matrix.shape)}; "
            f"{len(own)} malicious clients send float numbers of shape {tuple(own.matrix.shape)}"
        )


def _own() -> list[Updates]:
    """Return what one, two and three malicious clients trained in three rounds."""
    return [_updates(malicious, DIMENSION, f"own {malicious}") for malicious in range(1, ROUNDS + 1)]


def _updates(malicious: int, dimension: int, name: str) -> Updates:
    matrix = sent(malicious, dimension, 0, name)
    counts = torch.full((malicious,), 500.0, dtype=torch.float64)
    return Updates(matrix, tuple(sorted(client_names(malicious, name))), counts, layout_of(dimension))


def _scale_check(trials: AttackTrials, examination: Examination, malicious: int, dimension: int) -> Check:
    return Check(
        Part.ROBUSTNESS,
        f"scale_{malicious}_{dimension}",
        f"craft() of {malicious} updates of d = {dimension:,}",
        lambda: _scale(trials, examination, malicious, dimension),
        "make it fit: avoid copies and float64 of the whole matrix",
        ("craft",),
    )


def _scale(trials: AttackTrials, examination: Examination, malicious: int, dimension: int) -> Outcome:
    own = _updates(malicious, dimension, "scale")
    cost = ShapeCost(
        participants=malicious,
        declared_malicious=0,
        dimension=dimension,
        verdict=Verdict.PASSED,
        updates_bytes=4 * malicious * dimension,
    )
    try:
        with all_threads(), trials.subject.fresh("craft") as attack, peak_memory(attack) as peak:
            began = time.perf_counter()
            crafted = attack.craft(own, AttackerView(round_index=0, participants=10))
            seconds = time.perf_counter() - began
            _check_crafted(crafted, own)
            memory = peak()
    except (Exception, SystemExit) as error:  # a submitted method may raise anything
        reason = trials.subject.reason(error)
        examination.shapes.append(cost.model_copy(update={"verdict": Verdict.FAILED, "reason": reason}))
        raise
    examination.shapes.append(cost.model_copy(update={"seconds": seconds, "peak_memory_bytes": memory}))
    return passes(f"{seconds:.3g} s" + (f", at most {memory / 2**20:,.0f} MiB of memory" if memory else ""))
