"""Robustness of `aggregate`: unusual updates, and time and memory at the sizes of large models.

The engine refuses an update at the door whose norm is not finite in float32; NaN, infinity and numbers of 1e30 never
reach a rule in a run. They are tried all the same, because a rule may be used elsewhere; what it does with them makes
no check fail. What the door lets in must not come out as numbers that are not finite.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import replace

import torch
from torch import Tensor

from benchmark.errors import NotApplicableError, SubmissionError
from benchmark.submission.contract.aggregate import AggregateTrials, ReadyRule, is_defined
from benchmark.submission.contract.examination import Check, Outcome, all_threads, fails, passes, warns
from benchmark.submission.contract.memory import peak_memory
from benchmark.submission.contract.report import Part, ShapeCost, Verdict
from benchmark.submission.contract.rounds import Trial, copy_of, layout_of, sent, trial
from benchmark.training.door import checked_aggregate
from benchmark.updates import Aggregate
from defenses.base import Defense

SCALES = ((3, 1, 1 << 24), (7, 3, 1 << 24), (10, 3, 1 << 20), (10, 3, 1 << 24), (50, 10, 1 << 20))
"""Shapes (n, f, d) at which time and memory are measured; f is lowered to where the rule is defined."""
SMALL_SCALES = ((3, 1, 1 << 12), (7, 3, 1 << 12), (10, 3, 1 << 14), (50, 10, 1 << 12))
"""The same in small, for quick tests and for rules that are bound to the size of the suite's model."""

PATIENCE = 120.0
"""Seconds for one call at a large shape; when the shapes together took as long, the rest is left out."""
_FIT = "make the rule fit: go through the columns in blocks, avoid copies and float64 of the whole matrix"
_GUARD = "guard divisions and square roots against zero, or raise an error that says what is wrong"


def robustness_checks(trials: AggregateTrials) -> list[Check]:
    """Return the checks with unusual updates, in order; they make sense once ordinary ones work."""
    needs = ("shape_condition", "aggregate_form")
    checks = [
        Check(
            Part.ROBUSTNESS,
            "zero_updates",
            "updates of zeros, from one client and from all",
            lambda: _unusual(trials, {"zeros": 0.0}, refused=False),
            _GUARD,
            needs,
        ),
        Check(
            Part.ROBUSTNESS,
            "large_updates",
            "updates of 1e15 everywhere, which the door just lets in, from one client and from all",
            lambda: _unusual(trials, {"1e15": 1e15}, refused=False),
            _GUARD,
            needs,
        ),
        Check(
            Part.ROBUSTNESS,
            "refused_updates",
            "updates of 1e30, infinity and NaN, which the door refuses in a run, from one client and from all",
            lambda: _unusual(trials, {"1e30": 1e30, "infinity": math.inf, "NaN": math.nan}, refused=True),
            _GUARD,
            needs,
        ),
    ]
    checks.append(
        Check(
            Part.ROBUSTNESS,
            "equal_updates",
            "the same update from two clients, and from all",
            lambda: _equal(trials),
            _GUARD,
            needs,
        )
    )
    if trials.server is None:
        checks.append(
            Check(
                Part.ROBUSTNESS,
                "one_number",
                "updates of a single number",
                lambda: _one_number(trials),
                "let nothing depend on d > 1",
                needs,
            )
        )
    return checks


def scale_checks(
    trials: AggregateTrials, shapes: list[ShapeCost], scales: tuple[tuple[int, int, int], ...] = SCALES
) -> list[Check]:
    """Return the checks of time and memory; what they measure is added to ``shapes``.

    Args:
        trials: The method; its processes, if it has any, should be allowed :data:`PATIENCE` for a call.
        shapes: Where to add.
        scales: Shapes (n, f, d).
    """
    began: list[float] = []
    if trials.server is not None:
        # A rule that is prepared, or that asks the server, may count on the size of the server's own adapter.
        scales = tuple((n, f, trials.layout.dimension) for n, f, _ in SMALL_SCALES)

    def check(n: int, f: int, d: int) -> Check:
        return Check(
            Part.ROBUSTNESS,
            f"scale_{n}_{d}",
            f"a round of n = {n} updates of d = {d:,}",
            lambda: _scale(trials, shapes, began, n, f, d),
            _FIT,
            ("shape_condition", "aggregate_form"),
        )

    return [check(*scale) for scale in scales]


def _unusual(trials: AggregateTrials, values: Mapping[str, float], *, refused: bool) -> Outcome:
    given = trials.rounds()[0]
    cases = []
    for name, value in values.items():
        one = given.updates.matrix.clone()
        one[len(one) // 2] = value
        cases += [(f"{name} from one", one), (f"{name} from all", torch.full_like(one, value))]
    return _tried(trials, cases, given, refused=refused)


def _equal(trials: AggregateTrials) -> Outcome:
    given = trials.rounds()[0]
    two = given.updates.matrix.clone()
    two[1] = two[0]
    every = two[:1].repeat(len(two), 1)
    return _tried(trials, [("from two", two), ("from all", every)], given, refused=False)


def _one_number(trials: AggregateTrials) -> Outcome:
    assert trials.shape is not None
    n, f = trials.shape
    small = trial(sent(n, 1, f, "one number"), layout_of(1), f, malicious=range(n - f, n) if trials.told_truth else ())
    return _tried(trials, [("", small.updates.matrix)], small, refused=False)


def _tried(trials: AggregateTrials, cases: list[tuple[str, Tensor]], given: Trial, *, refused: bool) -> Outcome:
    """Return what the rule makes of each matrix in place of the round's.

    An instance goes on from matrix to matrix, as in a run, until it fails; then a fresh one takes its place.

    Args:
        trials: The method.
        cases: In words, who sends it; and what is sent.
        given: The round.
        refused: Whether the door refuses such updates.
    """
    said: dict[str, list[str]] = {}
    worst = Verdict.PASSED
    with ExitStack() as stack:
        ready: ReadyRule | None = None
        for words, matrix in cases:
            copy = copy_of(replace(given, updates=replace(given.updates, matrix=matrix)))
            try:
                ready = ready or stack.enter_context(trials.ready())
                text, verdict = _judged(ready.aggregate(copy), copy, refused)
            except (Exception, SystemExit) as error:  # a submitted method may raise anything
                verdict = Verdict.PASSED if refused else Verdict.WARNING
                text = f"raises: {trials.subject.reason(error)}"
            if text != _FINITE:
                stack.close()
                ready = None
            said.setdefault(text, []).append(words)
            worst = max(worst, verdict, key=_SEVERITY.index)
    found = "; ".join(f"{text} ({', '.join(filter(None, words))})" for text, words in said.items()).replace(" ()", "")
    if worst is Verdict.FAILED:
        return fails(found, _GUARD)
    if worst is Verdict.WARNING:
        why = (
            "no run comes to that, because the door refuses such updates; without the door the model would be lost"
            if refused
            else "an attacker who sends this could stop the run, and the cell would count as failed"
        )
        return warns(f"{found}; {why}", _GUARD)
    return passes(found)


_FINITE = "a finite aggregate"
_SEVERITY = (Verdict.PASSED, Verdict.WARNING, Verdict.FAILED)


def _judged(result: Aggregate, given: Trial, refused: bool) -> tuple[str, Verdict]:
    if isinstance(result, Aggregate) and isinstance(result.update, Tensor) and result.update.is_floating_point():
        update = result.update.to(given.updates.matrix.dtype)
        weights = result.weights
        finite = bool(torch.isfinite(update).all()) and (weights is None or bool(torch.isfinite(weights).all()))
        if not finite:
            return "numbers that are not finite, without an error", Verdict.WARNING if refused else Verdict.FAILED
    checked_aggregate(result, given.updates)
    return _FINITE, Verdict.PASSED


def _scale(trials: AggregateTrials, shapes: list[ShapeCost], began: list[float], n: int, f: int, d: int) -> Outcome:
    """Measure one shape, unless those before it took all the time there is."""
    with trials.subject.fresh() as rule:
        declared = next((g for g in range(f, -1, -1) if is_defined(rule, (n, g))), None)
        refusal = _refusal(rule, (n, f))
    cost = ShapeCost(
        participants=n,
        declared_malicious=f if declared is None else declared,
        dimension=d,
        verdict=Verdict.NOT_APPLICABLE,
        reason=refusal,
        updates_bytes=4 * n * d,
    )
    if declared is None:
        shapes.append(cost)
        return Outcome(Verdict.NOT_APPLICABLE, refusal)
    now = time.monotonic()
    began.append(now)
    if now - began[0] > PATIENCE:
        said = f"left out: the shapes before took {now - began[0]:.0f} s"
        shapes.append(cost.model_copy(update={"verdict": Verdict.NOT_RUN, "reason": said}))
        return Outcome(Verdict.NOT_RUN, said)
    try:
        seconds, peak = _measured(trials, n, declared, d)
    except (Exception, SystemExit) as error:  # a submitted method may raise anything
        slow = isinstance(error, SubmissionError) and time.monotonic() - now >= PATIENCE
        verdict = Verdict.WARNING if slow else Verdict.FAILED
        reason = trials.subject.reason(error)
        shapes.append(cost.model_copy(update={"verdict": verdict, "reason": reason}))
        return Outcome(verdict, reason, _FIT)
    found = {"verdict": Verdict.PASSED, "reason": "", "seconds": seconds, "peak_memory_bytes": peak}
    shapes.append(cost.model_copy(update=found))
    lowered = f", with f = {declared} because it is not defined for f = {f}" if declared != f else ""
    memory = f", at most {peak / 2**20:,.0f} MiB of memory" if peak else ""
    return passes(f"{seconds:.3g} s{memory}{lowered}")


def _refusal(rule: Defense, shape: tuple[int, int]) -> str:
    try:
        rule.check_shape(*shape)
    except NotApplicableError as error:
        return str(error)
    return ""


def _measured(trials: AggregateTrials, n: int, f: int, d: int) -> tuple[float, int | None]:
    """Return the seconds and the peak memory, in bytes, of one round."""
    layout = layout_of(d) if trials.server is None else trials.layout
    given = trial(sent(n, d, f, "scale"), layout, f, malicious=range(n - f, n) if trials.told_truth else ())
    # Such a rule has rounds of the size of the suite's model, on which more threads only wait for each other.
    used_threads = all_threads() if trials.server is None else nullcontext()
    with used_threads, trials.ready() as ready, peak_memory(ready.rule) as peak:
        began = time.perf_counter()
        result = ready.aggregate(given)
        seconds = time.perf_counter() - began
        checked_aggregate(result, given.updates)
        return seconds, peak()
