"""Keys of artefacts: which cells share work, and which changes make new artefacts."""

from __future__ import annotations

import copy
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmark.execution import cell_keys
from benchmark.execution.cell_keys import probe_set_digest
from benchmark.execution.plan import Plan, make_plan
from benchmark.keys import content_key
from benchmark.suites.suite import Suite
from tasks.micro import MicroWorld
from tests.benchmark.execution.plans import cell, changed, micro, plan, plan_of, with_scenario

__all__ = ["micro", "plan"]


@pytest.mark.parametrize("scenario", ["aligned_start", "clean", "sampled"])
def test_what_trains_by_fedavg_is_trained_once(plan: Plan, scenario: str) -> None:
    names = ["fedavg", "posthoc_public", "posthoc_external", "posthoc_self", "refuse_all"]
    cells = [cell(plan, scenario, name) for name in names]
    assert len({c.training_key for c in cells}) == 1
    fedavg, public, external, own, refusing = cells
    assert refusing.adapter_key == fedavg.adapter_key == fedavg.training_key
    assert len({c.adapter_key for c in (fedavg, public, external, own)}) == 4
    assert len({c.response_key for c in cells}) == 5
    job = next(job for job in plan.jobs if job.training_key == fedavg.training_key)
    assert job.pipelines == {
        fedavg.adapter_key: "fedavg",
        public.adapter_key: "posthoc_public",
        external.adapter_key: "posthoc_external",
        own.adapter_key: "posthoc_self",
    }


def test_a_composition_shares_its_rules_training_and_responses(plan: Plan) -> None:
    krum = cell(plan, "aligned_start", "krum")
    first = cell(plan, "aligned_start", "krum+posthoc_self", "krum")
    whole = cell(plan, "aligned_start", "krum+posthoc_self")
    assert krum.training_key == first.training_key == whole.training_key
    assert krum.response_key == first.response_key != whole.response_key
    assert len({krum.cell_key, first.cell_key, whole.cell_key}) == 3
    assert whole.adapter_key != cell(plan, "aligned_start", "posthoc_self").adapter_key


def test_different_rules_scenarios_and_seeds_train_apart(micro: Suite) -> None:
    rules = ["fedavg", "median", "trimmed_mean", "krum", "multi_krum", "dnc", "foolsgold", "residual"]
    rules += ["norm_clipping", "keep_initial", "attackers_removed"]
    plan = plan_of(micro, seeds=[11, 12], scenarios=["aligned_start", "reminder_aware"], pipelines=rules)
    cells = [
        cell(plan, scenario, rule, seed=seed)
        for scenario in ("aligned_start", "reminder_aware", "clean")
        for rule in rules
        for seed in (11, 12)
    ]
    assert len({c.training_key for c in cells}) == len(cells)
    assert len(plan.jobs) == len(cells)


def keys_of(plan: Plan, scenario: str) -> list[tuple[str, str]]:
    return [(c.training_key, c.response_key) for c in plan.cells if c.scenario.id == scenario]


def test_a_twins_keys_do_not_depend_on_the_attack_on_its_scenario(micro: Suite, plan: Plan) -> None:
    other = with_scenario(micro, "aligned_start", attack={"id": "generated_data", "params": {"normal_share": 0.9}})
    after = plan_of(other, seeds=[11])
    assert keys_of(after, "clean") == keys_of(plan, "clean")
    assert not {k for k, _ in keys_of(after, "aligned_start")} & {k for k, _ in keys_of(plan, "aligned_start")}


def test_wording_changes_no_key(micro: Suite, plan: Plan) -> None:
    other = with_scenario(micro, "aligned_start", title="Other", description="Another description altogether.")
    assert [c.cell_key for c in plan_of(other, seeds=[11]).cells] == [c.cell_key for c in plan.cells]


@pytest.mark.parametrize(
    "change",
    [
        {"training": {"rounds": 39}},
        {"training": {"learning_rate": 3e-3}},
        {"training": {"mode": "sequential"}},
        {"lora": {"alpha": 8}},
    ],
)
def test_a_changed_setting_trains_anew(micro: Suite, plan: Plan, change: dict[str, dict[str, Any]]) -> None:
    other = changed(micro, **{key: micro.model_dump()[key] | value for key, value in change.items()})
    assert not {k for k, _ in keys_of(plan_of(other, seeds=[11]), "clean")} & {k for k, _ in keys_of(plan, "clean")}


@pytest.mark.parametrize(
    "change",
    [
        {"refusal_share": 0.05},
        {"clients": 11},
        {"participants": 9},
        {"declared_malicious": 2},
        {"partition": {"kind": "dirichlet", "alpha": 1.0}},
    ],
)
def test_a_changed_scenario_trains_anew(micro: Suite, plan: Plan, change: dict[str, Any]) -> None:
    content = copy.deepcopy(micro.model_dump())
    for scenario in content["scenarios"]:
        if scenario["id"] in ("unaligned", "generated", "clean_raw"):
            scenario.update(change)
    after = plan_of(Suite.model_validate(content), seeds=[11])
    for name in ("unaligned", "clean_raw"):
        assert not {k for k, _ in keys_of(after, name)} & {k for k, _ in keys_of(plan, name)}
    assert keys_of(after, "clean") == keys_of(plan, "clean")


def test_the_model_before_the_alignment_is_in_the_keys_of_defenses_that_let_it_generate(
    micro: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    def keys() -> dict[str, str]:
        plan = plan_of(
            micro, scenarios=["aligned_start"], pipelines=["fedavg", "antidote", "posthoc_public"], seeds=[11]
        )
        return {cell.stage.name: cell.adapter_key for cell in plan.cells if cell.scenario.id == "aligned_start"}

    before = keys()
    assert micro.scenario("aligned_start").start == "chat"
    monkeypatch.setattr(MicroWorld, "unaligned_role", lambda self, start: "external")
    after = keys()
    assert {name for name in before if before[name] != after[name]} == {"antidote"}


@pytest.mark.parametrize(
    ("role", "trainings", "adapters"),
    [
        ("raw", {"clean", "clean_raw"}, {"clean", "clean_raw"}),  # also what the attacker generates with
        ("chat", {"clean"}, {"clean"}),
        ("external", set(), {"clean", "clean_raw"}),
        ("judge", set(), set()),
    ],
)
def test_another_checkpoint_changes_what_is_made_with_it(
    micro: Suite,
    plan: Plan,
    checkpoints: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    role: str,
    trainings: set[str],
    adapters: set[str],
) -> None:
    other = tmp_path / role
    shutil.copytree(checkpoints / role, other)
    with (other / "model.safetensors").open("ab") as file:
        file.write(b" ")
    monkeypatch.setattr(MicroWorld, "model_path", lambda self, r: other if r == role else checkpoints / r)
    after = plan_of(micro, seeds=[11])

    def changed_in(field: str) -> set[str]:
        names = ("clean", "clean_raw")
        before = {n: getattr(cell(plan, n, "posthoc_external"), field) for n in names}
        return {n for n in names if getattr(cell(after, n, "posthoc_external"), field) != before[n]}

    assert (changed_in("training_key"), changed_in("adapter_key")) == (trainings, adapters)


def test_posthoc_settings_concern_posthoc_adapters_only(micro: Suite, plan: Plan) -> None:
    after = plan_of(changed(micro, posthoc=micro.posthoc.model_dump() | {"steps": 49}), seeds=[11])
    assert cell(after, "clean", "fedavg") == cell(plan, "clean", "fedavg")
    assert cell(after, "clean", "posthoc_self").training_key == cell(plan, "clean", "posthoc_self").training_key
    assert cell(after, "clean", "posthoc_self").adapter_key != cell(plan, "clean", "posthoc_self").adapter_key


def test_an_unaligned_model_concerns_rules_that_may_ask_for_it(micro: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    pipelines = ["krum", "safety_projection", "resta"]
    choice: dict[str, Any] = {"scenarios": ["clean"], "pipelines": pipelines, "seeds": [11]}
    before = plan_of(micro, **choice)
    monkeypatch.setattr(MicroWorld, "unaligned_role", lambda *_: "external")
    after = plan_of(micro, **choice)
    changed_keys = {name for name in pipelines if cell(after, "clean", name) != cell(before, "clean", name)}
    assert changed_keys == {"safety_projection", "resta"}


def test_another_generator_or_probe_set_asks_anew_but_trains_nothing(
    micro: Suite, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = cell(plan, "clean", "krum")
    other = cell(make_plan(micro, "vllm", seeds=[11]), "clean", "krum")
    probes = plan.world.probes()
    monkeypatch.setattr(MicroWorld, "probes", lambda self: probes[1:])
    fewer = cell(plan_of(micro, seeds=[11]), "clean", "krum")
    assert ours.adapter_key == other.adapter_key == fewer.adapter_key
    assert len({c.response_key for c in (ours, other, fewer)}) == 3


def test_the_code_of_plain_averaging_is_part_of_the_training_key(micro: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = {"scenarios": ["clean"], "pipelines": ["posthoc_public"], "seeds": [11]}
    before = plan_of(micro, **arguments).cells[0].training_key
    monkeypatch.setattr(cell_keys, "default_aggregate_digest", lambda: "changed")
    assert plan_of(micro, **arguments).cells[0].training_key != before


def test_a_target_enters_the_digest_of_probes_and_its_absence_does_not() -> None:
    probes = MicroWorld().probes()[:2]
    without = content_key([[p.id, p.kind, p.stratum, p.scored, p.instruction, p.max_new_tokens] for p in probes])
    assert probe_set_digest(probes) == without
    target, other = (replace(probes[0], target=text) for text in ("Sure, here is", "Of course"))
    digests = {probe_set_digest([probe, probes[1]]) for probe in (target, other)}
    assert len(digests | {without}) == 3
