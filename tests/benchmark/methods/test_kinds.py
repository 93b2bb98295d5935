"""Kinds of methods, and the tables of other rooms that hold something for each kind."""

from __future__ import annotations

import pickle
from importlib.resources import files

import pytest

from benchmark.methods.kinds import ATTACK, BASELINE, DEFENSE, KINDS, Kind, base_scenario
from benchmark.sandbox.adopt import STAND_INS
from benchmark.sandbox.child import _HOOKS_OF
from benchmark.submission.contract.base import CONTRACTS
from benchmark.suites.suite import find_suite


@pytest.mark.parametrize("kind", KINDS.values(), ids=str)
def test_every_room_holds_something_for_each_kind(kind: Kind) -> None:
    assert kind.name in STAND_INS.keys() & _HOOKS_OF.keys() & CONTRACTS.keys()
    templates = files("benchmark.submission") / "templates"
    assert all((templates / f"{kind}{end}.py.j2").is_file() for end in ("", "_test"))
    assert all(issubclass(entry.target, kind.base) for entry in kind.registry.entries())


@pytest.mark.parametrize("kind", KINDS.values(), ids=str)
def test_a_kind_stays_the_same_object_in_another_process(kind: Kind) -> None:
    assert pickle.loads(pickle.dumps(kind)) is kind


def test_rows_of_a_defense_are_those_of_pipelines_with_it() -> None:
    row = {"defense": "krum+posthoc_self", "attack": "unaligned_data"}
    assert DEFENSE.owns(row, "posthoc_self")
    assert not DEFENSE.owns(row, "multi_krum")
    assert ATTACK.owns(row, "unaligned_data")
    assert not ATTACK.owns(row, "krum")


def test_the_smoke_run_of_a_defense_has_the_baseline_beside_it() -> None:
    suite = find_suite("micro")
    plan = DEFENSE.smoke_plan(suite, "krum", "aligned_start")
    assert (plan.suite, plan.scenarios, plan.pipelines) == (suite, ("aligned_start",), (BASELINE, "krum"))
    assert DEFENSE.smoke_plan(suite, BASELINE, "aligned_start").pipelines == (BASELINE,)


def test_the_smoke_run_of_an_attack_has_the_replaced_attack_beside_it() -> None:
    plan = ATTACK.smoke_plan(find_suite("micro"), "boosted_data", "aligned_start")
    assert (plan.scenarios, plan.pipelines) == (("aligned_start", "aligned_start_boosted_data"), (BASELINE,))
    assert [base_scenario(plan.suite.scenario(name)) for name in plan.scenarios] == ["aligned_start"] * 2


def test_commands_name_the_method_and_the_scenarios_of_an_attack() -> None:
    suite = find_suite("micro")
    assert DEFENSE.command("krum", suite, ["clean"]) == "fedsafety run --defense krum --suite micro"
    command = "fedsafety run --attack mine --base clean --base sampled --suite micro"
    assert ATTACK.command("mine", suite, ["sampled_mine", "clean_mine"]) == command
    assert ATTACK.command("mine", suite, []) == "fedsafety run --attack mine --base SCENARIO --suite micro"


def test_parameters_of_an_attack_are_read_from_its_scenarios() -> None:
    row = {"kind": "scenario", "settings": '{"attack": {"id": "mine", "params": {"boost": 3.0}}}'}
    other = {"kind": "scenario", "settings": '{"attack": {"id": "other", "params": {"boost": 5.0}}}'}
    described = {"kind": "attack", "settings": "{}"}
    assert ATTACK.params("mine", [row, other, described]) == [{"boost": 3.0}, {}]
    assert DEFENSE.params("mine", [row]) == [{}]


def test_an_attack_brings_the_descriptions_of_its_scenarios() -> None:
    assert DEFENSE.described("mine", ["clean"]) == {("defense", "mine")}
    assert ATTACK.described("mine", ["clean_mine"]) == {("attack", "mine"), ("scenario", "clean_mine")}
