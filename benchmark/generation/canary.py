"""The adapter canary: no score is computed before the engine has shown that it applies the adapter that was trained.

An engine that loads an adapter wrongly, or ignores it, still answers fluently, and its scores look normal. So each
adapter carries a few token sequences with their log-probabilities in the training code's own forward pass, without and
with the adapter. The engine must reproduce both.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmark.errors import FedSafetyError
from benchmark.generation.base import Engine
from benchmark.models.peft import broken, is_zero

FILE_NAME = "canary.json"

TOLERANCES = {"float32": 2e-3, "float16": 0.2, "bfloat16": 1.5}
"""Largest accepted difference of one log-probability (nats), by the engine's number format. In float32, engine and
training code differ by rounding only, around 1e-5. In bfloat16 a random two-layer model came out up to 1.1 nats away
from float32 on its unlikely tokens; the root mean square was then 0.08. Quantised weights need no larger tolerance,
because engine and training hold the same weights: in float32 they differed by 7e-6, both in 8 and in 4 bits."""

_RMS_SHARE = 0.25
"""Largest accepted root mean square of these differences, as a share of the tolerance: rounding makes large errors on
few tokens, another model on many."""

_SPARED_SHARE = 0.01
"""Share of the predictions, in formats other than float32, whose difference with the adapter may exceed the tolerance.
The first tokens of a prompt carry activations far larger than all others, and a strong adapter can make one prediction
there depend on their rounding: one of 290 differed by 5 nats, where the others agreed to 0.1 in the root mean square.
The adapter's effect is compared over all predictions as before."""

_NOISE_FLOOR = 1e-4
"""Smallest effect of an adapter (nats) that differs clearly from rounding in float32."""

_NOISE_SHARE = 0.01
"""Least assumed noise, as a share of the tolerance. Adapted layers round once more than bare layers, so that the
differences on the bare model may be smaller than those with the adapter."""

_LEAST_EFFECT = 1e-7
"""Smallest effect (nats) of an adapter that an engine applies. An engine repeats equal requests exactly."""

_EFFECT_SHARE = 0.25
"""Largest accepted share by which an adapter's effect may differ from the trained one, rounding aside. Rounding of the
factors to bfloat16 changes it by less than a hundredth. Half the scaling changes it by a half, and twice the scaling by
the whole. Without one of two target modules, it changed by one to two thirds in a random model."""


@dataclass(frozen=True)
class Canary:
    """Token sequences and their log-probabilities in the training code's forward pass.

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
            FedSafetyError: The canary is missing or malformed.
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

    Absolute differences do not suffice in a coarse number format: an adapter that moves all log-probabilities by less
    than the rounding error of the worst token would pass even if the engine ignored it. So the *effect* is compared,
    too. Let t be the adapter's effect in the training code, e its effect in the engine, and n the root mean square of
    the differences between both on the bare model. In a correct engine, e - t is the difference of two rounding errors
    of the size n each, so at most 2n. Two conditions follow, each with twice that room and a quarter of the effect:

    * ``rms(e - t) <= 0.25 rms(t) + 4 n``: the rest is rounding.
    * ``|slope - 1| <= 0.25 + 4 · 2n / (rms(t) √tokens)``, where ``slope = <e, t> / <t, t>`` is the size of the effect
      in units of the trained one. It is a mean over all tokens, whose error falls with the root of their number. It
      reveals an ignored adapter, or half the scaling, even where noise covers single tokens.

    Args:
        engine: The engine that will answer the probes.
        canaries: Adapter folder → its canary.
        tolerance: Largest accepted difference of a log-probability (nats); by default that of the engine's number
            format, see :data:`TOLERANCES`.

    Raises:
        FedSafetyError: They disagree. The message gives the numbers and the cause: another base model, other weights
            of the adapter, an ignored adapter, or another effect.
    """
    limit = TOLERANCES[engine.dtype] if tolerance is None else tolerance
    # Cells share their base model and canary sequences, so the base model scores each distinct sequence once.
    distinct = sorted({sequence for canary in canaries.values() for sequence in canary.sequences})
    scored: list[tuple[Sequence[int], Path | None]] = [(sequence, None) for sequence in distinct]
    scored += [(sequence, adapter) for adapter, canary in canaries.items() for sequence in canary.sequences]
    logprobs = iter(engine.logprobs_mixed(scored))
    base = {sequence: next(logprobs) for sequence in distinct}
    for adapter, canary in canaries.items():
        without = [base[sequence] for sequence in canary.sequences]
        applied = [next(logprobs) for _ in canary.sequences]
        share = 0.0 if engine.dtype == "float32" else _SPARED_SHARE
        problem = _problem(canary, without, applied, limit, share)
        if problem:
            raise FedSafetyError(f"adapter canary of {adapter} failed on {engine.name} ({engine.dtype}): {problem}")


def check_effect(engine: Engine, adapter: Path, sequence: Sequence[int]) -> None:
    """Check that ``engine`` applies an adapter without a canary at all. An adapter that is truly zero passes.

    Args:
        engine: The engine that will answer with the adapter.
        adapter: Folder of an adapter that another program trained.
        sequence: At least two token ids of the model.

    Raises:
        FedSafetyError: The adapter cannot be read, or it changes no log-probability of the sequence.
    """
    without, applied = engine.logprobs_mixed([(sequence, None), (sequence, adapter)])
    if _gap([applied], [without]) <= _LEAST_EFFECT and not is_zero(adapter):
        raise broken(
            adapter,
            f"{engine.name} answers with it as without it",
            "check that it was trained on this base model, or take another engine",
        )


def _problem(
    canary: Canary, without: Sequence[Sequence[float]], applied: Sequence[Sequence[float]], limit: float, spared: float
) -> str | None:
    """Return the problem as a sentence, or ``None``.

    Args:
        canary: The canary.
        without: The engine's log-probabilities without the adapter.
        applied: The engine's log-probabilities with the adapter.
        limit: Largest accepted difference in nats.
        spared: Share of the predictions that may differ by more with the adapter.
    """
    base_gap = _gap(without, canary.without)
    if not base_gap <= limit:
        return (
            f"without the adapter, engine and training code differ by {base_gap:.2g} nats (allowed {limit:.2g}); "
            f"the engine has loaded another base model or number format than the training used"
        )
    noise = _rms(_differences(without, canary.without))
    if noise > _RMS_SHARE * limit:
        return (
            f"without the adapter, engine and training code differ by {noise:.2g} nats in the root mean square "
            f"(allowed {_RMS_SHARE * limit:.2g}); the engine has loaded another base model or number format than the "
            f"training used"
        )
    expected, shown = _gap(canary.applied, canary.without), _gap(applied, without)
    if expected > max(_NOISE_FLOOR, 8 * base_gap) and shown < expected / 4:
        return (
            f"the adapter is ignored: it should move log-probabilities by {expected:.2g} nats, but in the engine it "
            f"moves them by {shown:.2g}; check the adapter's module names and target_modules, or take another engine"
        )
    gap = _gap_of_most(canary, applied, spared)
    if not gap <= limit:
        return (
            f"with the adapter, engine and training code differ by {gap:.2g} nats (allowed {limit:.2g}) although the "
            f"base model agrees to {base_gap:.2g}; the stored weights or their scaling are not the trained ones: "
            f"delete the adapter's folder so that it is trained and exported again"
        )
    return _effect_problem(canary, without, applied, max(noise, _NOISE_SHARE * limit))


def _effect_problem(
    canary: Canary, without: Sequence[Sequence[float]], applied: Sequence[Sequence[float]], noise: float
) -> str | None:
    """Return how the adapter's effect in the engine differs from the trained one, or ``None``."""
    trained = _differences(canary.applied, canary.without)
    shown = _differences(applied, without)
    effect = _rms(trained)
    if effect == 0.0:
        slope, room = 1.0, math.inf
    else:
        slope = sum(e * t for e, t in zip(shown, trained, strict=True)) / sum(t * t for t in trained)
        room = _EFFECT_SHARE + 8 * noise / (effect * math.sqrt(len(trained)))
    rest = _rms([e - t for e, t in zip(shown, trained, strict=True)])
    if abs(slope - 1) <= room and rest <= _EFFECT_SHARE * effect + 4 * noise:
        return None
    return (
        f"the adapter acts otherwise than in training: its effect there, {effect:.2g} nats in the root mean square, "
        f"appears in the engine {slope:.2g} times, with a difference of {rest:.2g} nats, although the base model "
        f"agrees to {noise:.2g}; check lora_alpha, target_modules and module names, or take another engine"
    )


def _differences(left: Sequence[Sequence[float]], right: Sequence[Sequence[float]]) -> list[float]:
    return [a - b for rows in zip(left, right, strict=True) for a, b in zip(*rows, strict=True)]


def _gap_of_most(canary: Canary, applied: Sequence[Sequence[float]], spared: float) -> float:
    """Return the largest absolute difference with the adapter, without a share of the predictions that differ most.

    A prediction that several sequences share, because they begin alike, counts once. The share is rounded down.
    """
    gaps: dict[tuple[int, ...], float] = {}
    for sequence, shown, trained in zip(canary.sequences, applied, canary.applied, strict=True):
        for end, (a, b) in enumerate(zip(shown, trained, strict=True), start=2):
            gap = math.inf if math.isnan(a - b) else abs(a - b)
            gaps[sequence[:end]] = max(gap, gaps.get(sequence[:end], 0.0))
    if math.inf in gaps.values():
        return math.inf
    return sorted(gaps.values(), reverse=True)[int(spared * len(gaps))]


def _rms(values: Sequence[float]) -> float:
    return math.sqrt(sum(value * value for value in values) / len(values))


def _gap(left: Sequence[Sequence[float]], right: Sequence[Sequence[float]]) -> float:
    """Return the largest absolute difference; a value that is not a number counts as infinite."""
    gaps = [abs(difference) for difference in _differences(left, right)]
    return math.inf if any(math.isnan(gap) for gap in gaps) else max(gaps)
