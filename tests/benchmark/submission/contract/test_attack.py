"""Each promise of an attack, and an attack that breaks it; all built-in attacks keep theirs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from attacks.base import Attack, AttackInfo, attacks
from benchmark.registry import Entry
from benchmark.submission.contract.base import attack_contract
from benchmark.submission.contract.examination import Examination, Subject, perform
from benchmark.submission.contract.report import Finding, Verdict
from tasks.base import DataKind, Example
from tasks.micro import MicroWorld

COUNTER = itertools.count()
SMALL = ((3, 4096), (3, 16384))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Plain(Attack):
    """Trains on public unaligned pairs."""

    def pool(self, resources, rng):
        return resources.unaligned(30, rng)

    def poison(self, normal, pool, rng):
        return [pool[i] for i in rng.integers(len(pool), size=len(normal))]


def examined(entry: Entry[AttackInfo, Attack]) -> tuple[dict[str, Finding], Examination]:
    subject = Subject[AttackInfo, Attack](entry, (Path(__file__),))
    examination = attack_contract(subject, scales=SMALL)
    return {f.check: f for f in perform(examination.checks, subject, lambda: None)}, examination


def of(target: type[Attack]) -> dict[str, Finding]:
    info = AttackInfo(id="tried", title="Tried", description="An attack that is only here to be tried.", knowledge="-")
    return examined(Entry(info, target, "test"))[0]


def failed(findings: dict[str, Finding]) -> set[str]:
    return {name for name, finding in findings.items() if finding.verdict is Verdict.FAILED}


UPDATE_SPACE = ("alie", "boosted_data", "inner_product_manipulation", "min_max", "min_sum")


@pytest.mark.parametrize(
    "name",
    [
        *UPDATE_SPACE,
        "benign_similar",
        "none",
        "refuse_then_answer",
        "targeted_refusal",
        "task_format",
        "unaligned_data",
    ],
)
def test_built_in_attacks_keep_the_contract(name: str) -> None:
    findings, examination = examined(attacks.get(name))
    warned = {name for name, finding in findings.items() if finding.verdict is not Verdict.PASSED}
    assert warned == ({"hooks"} if name == "none" else set())
    assert [shape.dimension for shape in examination.shapes] == ([4096, 16384] if name in UPDATE_SPACE else [])


@pytest.mark.slow
def test_generated_rows_that_name_evaluation_items_are_counted() -> None:
    findings, _ = examined(attacks.get("generated_data"))
    assert failed(findings) == set()
    finding = findings["pool_without_evaluation"]
    assert finding.verdict is Verdict.WARNING
    assert int(finding.found.split()[0]) > 0


def test_a_pool_may_not_be_taken_from_evaluation() -> None:
    world = MicroWorld()
    probe = next(p for p in world.probes() if world.leaks_evaluation(p.instruction))

    class Cheating(Plain):
        def pool(self, resources, rng):
            leaked = Example(probe.instruction, "sure .", DataKind.UNALIGNED, "howto")
            return [leaked, *resources.unaligned(5, rng)]

    finding = of(Cheating)["pool_without_evaluation"]
    assert finding.verdict is Verdict.WARNING
    assert finding.found.startswith("1 of ")


HOOKS: dict[str, tuple[str, Any, str, str]] = {
    "no list": ("pool", lambda self, resources, rng: None, "pool", "return a list of Example"),
    "no examples": ("pool", lambda self, resources, rng: ["text"], "pool", "a row of type str"),
    "no text": (
        "pool",
        lambda self, resources, rng: [replace(resources.unaligned(1, rng)[0], response=3)],
        "pool",
        "are texts",
    ),
    "no kind": (
        "pool",
        lambda self, resources, rng: [replace(resources.unaligned(1, rng)[0], kind="bad")],
        "pool",
        "it is a DataKind",
    ),
    "random pool": (
        "pool",
        lambda self, resources, rng: [replace(row, task=str(next(COUNTER))) for row in resources.unaligned(3, rng)],
        "pool",
        "different pools from the same random stream",
    ),
    "error in pool": ("pool", lambda self, resources, rng: 1 / 0, "pool", "ZeroDivisionError"),
    "fewer rows": ("poison", lambda self, normal, pool, rng: normal[1:], "poison", "59 rows in place of 60"),
    "rows in place": (
        "poison",
        lambda self, normal, pool, rng: [normal.pop() and pool[0] for _ in range(60)],
        "poison",
        "changed the lists",
    ),
    "random rows": (
        "poison",
        lambda self, normal, pool, rng: [replace(row, task=str(next(COUNTER))) for row in normal],
        "poison",
        "different rows from the same random stream",
    ),
    "no updates": ("craft", lambda self, own, view: own.matrix, "craft", "return Updates"),
    "one update less": (
        "craft",
        lambda self, own, view: replace(own, matrix=own.matrix[:, 1:]),
        "craft",
        "send float numbers of shape (1, 4096)",
    ),
    "updates in place": (
        "craft",
        lambda self, own, view: replace(own, matrix=own.matrix.mul_(2)),
        "craft",
        "changed in place: own.matrix",
    ),
    "random updates": (
        "craft",
        lambda self, own, view: replace(own, matrix=own.matrix + next(COUNTER)),
        "craft",
        "send different updates",
    ),
}


@pytest.mark.parametrize("case", HOOKS)
def test_hooks_have_the_promised_form(case: str) -> None:
    hook, function, check, said = HOOKS[case]
    findings = of(type("Broken", (Plain,), {hook: function}))
    assert failed(findings) == {check}
    assert said in findings[check].found


def test_rows_are_checked_once_there_is_a_pool() -> None:
    findings = of(type("Broken", (Plain,), {"pool": HOOKS["error in pool"][1]}))
    assert findings["poison"].verdict is Verdict.NOT_RUN
    assert "of test_attack.py" in findings["pool"].found


def test_updates_that_are_not_finite_have_no_effect() -> None:
    class Infinite(Plain):
        def craft(self, own, view):
            return replace(own, matrix=own.matrix / 0)

    finding = of(Infinite)["craft"]
    assert finding.verdict is Verdict.WARNING
    assert "refuses them at the door" in finding.found


def test_a_boost_shows_in_the_norm() -> None:
    findings, _ = examined(attacks.get("boosted_data"))
    assert findings["craft"].found == "what is sent has 5 to 5 times the norm of what was trained"


def test_time_and_memory_of_a_craft_that_fails_are_not_made_up() -> None:
    class Small(Plain):
        def craft(self, own, view):
            if own.matrix.shape[1] > 10_000:
                raise MemoryError("too large")
            return own

    info = AttackInfo(id="tried", title="Tried", description="An attack that is only here to be tried.", knowledge="-")
    findings, examination = examined(Entry(info, Small, "test"))
    assert failed(findings) == {"scale_3_16384"}
    assert [shape.seconds is None for shape in examination.shapes] == [False, True]
    assert "MemoryError: too large" in examination.shapes[1].reason
