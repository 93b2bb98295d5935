"""The adapter canary: no score is computed before the engine has shown that it applies the adapter that was trained.

An engine that loads an adapter wrongly, or ignores it, still answers fluently, and the answers look like scores. So
each adapter carries a few token sequences with the log-probabilities that the training code's own forward pass gives
them, without and with the adapter. The engine must reproduce both.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmark.errors import FedSafetyError
from benchmark.generation.base import Engine

FILE_NAME = "canary.json"

TOLERANCES = {"float32": 2e-3, "float16": 0.2, "bfloat16": 1.5}
"""Largest accepted difference of one log-probability (nats), by the engine's number format. In float32, engine and
training code differ by rounding only, around 1e-5. In bfloat16 a random two-layer model came out up to 1.1 nats away
from float32 on its unlikely tokens; an adapter that is ignored is still found, by the ratio of effects."""

_NOISE_FLOOR = 1e-4
"""Smallest effect of an adapter (nats) that is told apart from rounding in float32."""


@dataclass(frozen=True)
class Canary:
    """Token sequences and what the training code's forward pass says of them.

    Attributes:
        sequences: Token ids; at least one sequence, each of at least two tokens.
        without: For each sequence of length L, the L - 1 natural-log probabilities of its tokens after the first, by
            the base model alone.
        applied: The same with the adapter.

    Raises:
        FedSafetyError: The shapes do not fit, or a log-probability is not finite.
    """

    sequences: tuple[tuple[int, ...], ...]
    without: tuple[tuple[float, ...], ...]
    applied: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        lengths = [len(sequence) - 1 for sequence in self.sequences]
        if not lengths or min(lengths) < 1:
            raise FedSafetyError(
                f"a canary needs sequences of at least 2 tokens, got lengths {[n + 1 for n in lengths]}"
            )
        for name, rows in (("without", self.without), ("applied", self.applied)):
            if [len(row) for row in rows] != lengths:
                raise FedSafetyError(
                    f"canary.{name} has rows of length {[len(row) for row in rows]}, its sequences need {lengths}"
                )
            if not all(math.isfinite(value) for row in rows for value in row):
                raise FedSafetyError(f"canary.{name} holds a value that is not finite: the trained adapter is unusable")

    def save(self, adapter: Path) -> None:
        """Write the canary beside the adapter's files."""
        (adapter / FILE_NAME).write_text(json.dumps(asdict(self)) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, adapter: Path) -> Canary:
        """Return the canary stored beside an adapter.

        Raises:
            FedSafetyError: It is missing or malformed.
        """
        path = adapter / FILE_NAME
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            fields = {name: tuple(tuple(row) for row in rows) for name, rows in stored.items()}
            return cls(**fields)
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise FedSafetyError(
                f"cannot read the canary {path}: {error}; delete the adapter's folder so that it is trained again"
            ) from error


def check_canary(engine: Engine, adapter: Path, canary: Canary, tolerance: float | None = None) -> None:
    """Check one adapter; see :func:`check_canaries`."""
    check_canaries(engine, {adapter: canary}, tolerance)


def check_canaries(engine: Engine, canaries: Mapping[Path, Canary], tolerance: float | None = None) -> None:
    """Check that ``engine`` applies each adapter as the training code does. An adapter that is truly zero passes.

    Args:
        engine: The engine that will answer the probes.
        canaries: Adapter folder → its canary.
        tolerance: Largest accepted difference of a log-probability (nats); by default that of the engine's number
            format, see :data:`TOLERANCES`.

    Raises:
        FedSafetyError: They disagree; the message says whether on the base model, on the adapter, or because the
            adapter is ignored, with the numbers.
    """
    limit = TOLERANCES[engine.dtype] if tolerance is None else tolerance
    # Cells share their base model and canary sequences, so the base model is asked once a distinct sequence.
    distinct = sorted({sequence for canary in canaries.values() for sequence in canary.sequences})
    scored: list[tuple[Sequence[int], Path | None]] = [(sequence, None) for sequence in distinct]
    scored += [(sequence, adapter) for adapter, canary in canaries.items() for sequence in canary.sequences]
    found = iter(engine.logprobs_mixed(scored))
    base = {sequence: next(found) for sequence in distinct}
    for adapter, canary in canaries.items():
        without = [base[sequence] for sequence in canary.sequences]
        applied = [next(found) for _ in canary.sequences]
        problem = _problem(canary, without, applied, limit)
        if problem:
            raise FedSafetyError(f"adapter canary of {adapter} failed on {engine.name} ({engine.dtype}): {problem}")


def _problem(
    canary: Canary, without: Sequence[Sequence[float]], applied: Sequence[Sequence[float]], limit: float
) -> str | None:
    """Return what is wrong, or ``None``."""
    base_gap = _gap(without, canary.without)
    if not base_gap <= limit:
        return (
            f"without the adapter, engine and training code differ by {base_gap:.2g} nats (allowed {limit:.2g}); "
            f"the engine has loaded another base model or number format than the one that was trained from"
        )
    expected, shown = _gap(canary.applied, canary.without), _gap(applied, without)
    if expected > max(_NOISE_FLOOR, 8 * base_gap) and shown < expected / 2:
        return (
            f"the adapter is ignored: it should move log-probabilities by {expected:.2g} nats, in the engine it moves "
            f"them by {shown:.2g}; check the adapter's module names and target_modules, or take another engine"
        )
    gap = _gap(applied, canary.applied)
    if not gap <= limit:
        return (
            f"with the adapter, engine and training code differ by {gap:.2g} nats (allowed {limit:.2g}) although the "
            f"base model agrees to {base_gap:.2g}; the stored weights or their scaling are not the trained ones: "
            f"delete the adapter's folder so that it is trained and exported again"
        )
    return None


def _gap(left: Sequence[Sequence[float]], right: Sequence[Sequence[float]]) -> float:
    """Return the largest absolute difference; a value that is not a number counts as infinite."""
    gaps = [abs(a - b) for rows in zip(left, right, strict=True) for a, b in zip(*rows, strict=True)]
    return math.inf if any(math.isnan(gap) for gap in gaps) else max(gaps)
