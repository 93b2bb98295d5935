"""Declared traits against the calls of a method's tools."""

from __future__ import annotations

from typing import Any

import pytest

from attacks.base import Attack, AttackInfo
from benchmark.registry import Entry, Trait
from benchmark.submission.contract.base import attack_contract, defense_contract
from benchmark.submission.contract.examination import Check, Examination, Outcome, Subject, perform
from benchmark.submission.contract.metadata import defense_metadata_checks
from benchmark.submission.contract.report import Finding, Part, SmokeScore, Verdict
from benchmark.submission.contract.smoke import _gated
from defenses.base import Defense, DefenseInfo, Knowledge, Stage


class Quiet(Defense):
    """Repairs nothing."""

    def finalize(self, adapter, server):
        return adapter


class Generating(Defense):
    """Has both models generate and repairs nothing."""

    def finalize(self, adapter, server):
        server.generate(["name a fruit ."], adapter=adapter, temperature=0.0)
        server.generate_external(["name a fruit ."], temperature=0.0)
        return adapter


class GeneratingAttack(Attack):
    """Has the attacker's model generate and trains on public pairs."""

    def pool(self, resources, rng):
        resources.generate(["name a fruit ."], rng, temperature=0.0)
        return resources.unaligned(5, rng)


def finding(examination: Examination, subject: Subject[Any, Any]) -> Finding:
    findings = perform(examination.checks, subject, lambda: None)
    return next(each for each in findings if each.check == "declared_generation")


def of_defense(target: type[Defense], *traits: Trait) -> Finding:
    info = DefenseInfo(
        id="tried",
        title="Tried",
        description="A defense that exists to be checked.",
        stages=(Stage.FINALIZE,),
        knowledge=Knowledge.NONE,
        traits=traits,
    )
    subject = Subject[DefenseInfo, Defense](Entry(info, target, "test"))
    return finding(defense_contract(subject), subject)


def of_attack(target: type[Attack], *traits: Trait) -> Finding:
    description = "An attack that exists to be checked."
    info = AttackInfo(id="tried", title="Tried", description=description, knowledge="-", traits=traits)
    subject = Subject[AttackInfo, Attack](Entry(info, target, "test"))
    return finding(attack_contract(subject), subject)


def test_a_defense_that_generates_must_declare_it() -> None:
    result = of_defense(Generating, Trait.STATEFUL_PER_CLIENT)
    assert result.verdict is Verdict.FAILED
    assert result.found == "calls generate() and generate_external(), but its traits do not declare this"
    declaration = 'traits=("stateful_per_client", "generates", "generates_external",)'
    assert result.remedy == f"declare {declaration} in @register(...)"


def test_declared_generation_passes() -> None:
    result = of_defense(Generating, Trait.GENERATES, Trait.GENERATES_EXTERNAL)
    assert (result.verdict, result.found) == (Verdict.PASSED, '"generates", "generates_external"')


def test_a_declaration_without_a_call_is_a_warning() -> None:
    result = of_defense(Quiet, Trait.GENERATES)
    assert result.verdict is Verdict.WARNING
    assert result.found == 'declares "generates", but did not call generate() in the checks'


@pytest.mark.parametrize(("traits", "verdict"), [((), Verdict.FAILED), ((Trait.GENERATES,), Verdict.PASSED)])
def test_an_attack_that_generates_must_declare_it(traits: tuple[Trait, ...], verdict: Verdict) -> None:
    assert of_attack(GeneratingAttack, *traits).verdict is verdict


def test_a_method_without_generation_declares_nothing() -> None:
    assert of_defense(Quiet).verdict is Verdict.PASSED


def outcomes(title: str, description: str = "A defense that exists to be checked.") -> dict[str, Finding]:
    info = DefenseInfo(
        id="tried", title=title, description=description, stages=(Stage.AGGREGATE,), knowledge=Knowledge.NONE
    )
    subject = Subject[DefenseInfo, Defense](Entry(info, Defense, "test"))
    return {each.check: each for each in perform(defense_metadata_checks(subject), subject, lambda: None)}


@pytest.mark.parametrize(
    ("title", "check", "words"),
    [
        ("Verified rule", "claims", "title 'Verified rule' has the word 'verified', which only the benchmark gives"),
        ("k r u m", "title", "the title 'k r u m' is that of defense 'krum' ('Krum')"),
    ],
)
def test_a_name_that_is_not_the_methods_own_fails(title: str, check: str, words: str) -> None:
    found = outcomes(title)
    assert {name for name, each in found.items() if each.verdict is Verdict.FAILED} == {check}
    assert words in found[check].found
    assert found[check].remedy


def test_checks_in_this_process_end_with_their_bound() -> None:
    subject = Subject[DefenseInfo, Defense](Entry(None, Defense, "test"))  # type: ignore[arg-type]
    checks = [Check(Part.METADATA, f"check_{n}", "something", lambda: Outcome(Verdict.PASSED)) for n in range(3)]
    found = list(perform(checks, subject, lambda: None, seconds=-1.0))
    assert [each.verdict for each in found] == [Verdict.FAILED, Verdict.NOT_RUN, Verdict.NOT_RUN]
    assert "at most -1 s are allowed for all" in found[0].found


@pytest.mark.parametrize(("utility", "verdict"), [(0.0, Verdict.FAILED), (0.5, Verdict.WARNING), (1.0, Verdict.PASSED)])
def test_a_defense_without_any_utility_does_not_pass_its_smoke_run(utility: float, verdict: Verdict) -> None:
    def score(utility: float) -> SmokeScore:
        return SmokeScore(scenario="s", attack="a", defense="d", own=True, status="done", utility=utility)

    found, words, remedy = _gated(score(utility), score(0.9), "safety 100.0%", built_in=False)
    assert found is verdict
    assert ("its utility is 0.0%" in words) is (utility == 0.0)
    assert bool(remedy) is (verdict is not Verdict.PASSED)
    reference, _, _ = _gated(score(0.0), score(0.9), "", built_in=True)
    assert reference is Verdict.WARNING
