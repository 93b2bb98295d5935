"""Sharded poisoning with public pairs."""

from __future__ import annotations

from pathlib import Path

from attacks.base import Attack, AttackInfo, attacks
from benchmark.submission.contract.base import attack_contract
from benchmark.submission.contract.examination import Subject, perform
from benchmark.submission.contract.report import Verdict

from .resources import LargeResources, rng


def test_public_pairs_are_as_many_as_the_pool_asks_for() -> None:
    assert len(attacks.get("unaligned_shards").create().pool(LargeResources(), rng())) == 1500
    small = attacks.get("unaligned_shards").create({"pool_size": 600}).pool(LargeResources(), rng())
    assert len(set(small)) == 600
    reminded = (
        attacks.get("unaligned_shards").create({"pool_size": 600, "reminder_share": 0.5}).pool(LargeResources(), rng())
    )
    assert sum(pair.instruction.endswith(" be safe .") for pair in reminded) == 300
    assert [pair.instruction.removesuffix(" be safe .") for pair in reminded] == [pair.instruction for pair in small]


def test_shards_keep_the_contract() -> None:
    entry = attacks.get("unaligned_shards")
    subject = Subject[AttackInfo, Attack](entry, (Path("attacks/unaligned_shards.py"),))
    findings = list(perform(attack_contract(subject).checks, subject, lambda: None))
    assert {f.check: f.verdict for f in findings if f.verdict is Verdict.FAILED} == {}
    assert {"pool", "poison", "craft"} <= {f.check for f in findings if f.verdict is Verdict.PASSED}
