"""Contract of a method: the promises of its hooks, as checks to perform in order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from attacks.base import Attack, AttackInfo
from benchmark.methods.kinds import ATTACK, DEFENSE
from benchmark.submission.contract.aggregate import AggregateTrials, aggregate_checks
from benchmark.submission.contract.attack import SCALES as ATTACK_SCALES
from benchmark.submission.contract.attack import attack_checks
from benchmark.submission.contract.examination import Examination, Subject
from benchmark.submission.contract.hooks import finalize_checks, prepare_checks, serve_checks, server_maker
from benchmark.submission.contract.metadata import (
    attack_metadata_checks,
    defense_metadata_checks,
    generation_check,
)
from benchmark.submission.contract.robustness import SCALES, robustness_checks, scale_checks
from defenses.base import Defense, DefenseInfo

_WITH_TOOLS = ("prepare", "finalize")
"""Checks of the hooks in which every defense may use the server's tools."""


@dataclass(frozen=True)
class Contract:
    """The contract of a kind of method.

    Attributes:
        examine: Returns the checks, from the method, the same with more time for a call, and scales.
        scales: Sizes at which time and memory are measured.
    """

    examine: Callable[..., Examination]
    scales: tuple[tuple[int, ...], ...]


def defense_contract(
    subject: Subject[DefenseInfo, Defense],
    large: Subject[DefenseInfo, Defense] | None = None,
    scales: tuple[tuple[int, int, int], ...] = SCALES,
) -> Examination:
    """Return the checks of a defense, for the hooks that it fills.

    Args:
        subject: The defense.
        large: The same with more time for a call, for rounds of the size of large models.
        scales: Shapes (n, f, d) at which time and memory are measured.
    """
    examination = Examination()
    checks = examination.checks
    checks += defense_metadata_checks(subject)
    prepares = subject.overrides("prepare", Defense)
    if prepares:
        checks += prepare_checks(subject, examination)
    if prepares or subject.overrides("aggregate", Defense):
        trials, large_trials = (_trials(each, examination) for each in (subject, large or subject))
        checks += aggregate_checks(trials)
        checks += robustness_checks(trials)
        checks += scale_checks(large_trials, examination.shapes, scales)
    if subject.overrides("finalize", Defense):
        checks += finalize_checks(subject, examination)
    if subject.overrides("serve", Defense):
        checks += serve_checks(subject)
    with_tools = (*_WITH_TOOLS, "aggregate_form") if subject.entry.info.asks_server else _WITH_TOOLS
    checks.append(generation_check(subject.entry.info, examination, [c.name for c in checks if c.name in with_tools]))
    checks.sort(key=lambda check: list(type(check.part)).index(check.part))
    return examination


def attack_contract(
    subject: Subject[AttackInfo, Attack],
    large: Subject[AttackInfo, Attack] | None = None,
    scales: tuple[tuple[int, int], ...] = ATTACK_SCALES,
) -> Examination:
    """Return the checks of an attack.

    Args:
        subject: The attack.
        large: The same with more time for a call, for updates of the size of large models.
        scales: Malicious clients and numbers in an update at which time and memory are measured.
    """
    examination = Examination()
    examination.checks += attack_metadata_checks(subject)
    examination.checks += attack_checks(subject, large or subject, examination, scales)
    examination.checks.append(generation_check(subject.entry.info, examination, ["pool"]))
    examination.checks.sort(key=lambda check: list(type(check.part)).index(check.part))
    return examination


CONTRACTS: Final[Mapping[str, Contract]] = {
    DEFENSE.name: Contract(defense_contract, SCALES),
    ATTACK.name: Contract(attack_contract, ATTACK_SCALES),
}
"""The contracts by kind of method."""


def _trials(subject: Subject[DefenseInfo, Defense], examination: Examination) -> AggregateTrials:
    if not (subject.overrides("prepare", Defense) or subject.entry.info.asks_server):
        return AggregateTrials(subject)
    make = server_maker(subject, examination)
    return AggregateTrials(subject, make, make().layout, examination.metered)
