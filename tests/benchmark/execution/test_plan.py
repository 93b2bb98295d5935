"""Plans: which cells there are, which of them share work, and which cannot be scored."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest

from benchmark.errors import SubmissionError, UsageError
from benchmark.execution import plan as plan_module
from benchmark.execution.plan import CellPlan, Plan, make_plan, suite_pipelines
from benchmark.suites.suite import Suite, find_suite
from defenses.base import defenses
from tasks.base import Probe
from tasks.micro import MicroWorld


def plan_of(suite: Suite, **choice: Any) -> Plan:
    return make_plan(suite, "transformers", **choice)


def cell(plan: Plan, scenario: str, pipeline: str, stage: str = "", seed: int = 11) -> CellPlan:
    found = [
        c
        for c in plan.cells
        if (c.scenario.id, c.pipeline.name, c.stage.name, c.seed) == (scenario, pipeline, stage or pipeline, seed)
    ]
    assert len(found) == 1, (scenario, pipeline, stage, seed)
    return found[0]


def changed(suite: Suite, **changes: Any) -> Suite:
    return Suite.model_validate(suite.model_dump() | changes)


def with_scenarios(suite: Suite, names: tuple[str, ...], **changes: Any) -> Suite:
    content = copy.deepcopy(suite.model_dump())
    for scenario in content["scenarios"]:
        scenario.update(changes if scenario["id"] in names else {})
    return Suite.model_validate(content)


def with_scenario(suite: Suite, name: str, **changes: Any) -> Suite:
    return with_scenarios(suite, (name,), **changes)


@pytest.fixture
def whole(micro: Suite) -> Suite:
    """The suite with its sensitivity sets."""
    return Suite.model_validate(micro.model_dump() | {"sensitivity": find_suite("micro").sensitivity})


@pytest.fixture
def micro(micro: Suite) -> Suite:
    """The suite without its sensitivity sets."""
    return micro.model_copy(update={"sensitivity": None})


@pytest.fixture
def plan(micro: Suite) -> Plan:
    return plan_of(micro, seeds=[11])


def test_the_whole_suite_has_every_scenario_defense_and_seed_once(micro: Suite) -> None:
    plan = plan_of(micro)
    assert len({c.cell_key for c in plan.cells}) == len(plan.cells)
    variants = sum(len(scenario.variants) for scenario in micro.scenarios)
    stages = len(suite_pipelines(micro)) + len(micro.pipelines)  # a composition of two is scored twice
    assert len(plan.cells) == len(micro.seeds) * (len(micro.scenarios) * stages + variants)
    assert {c.seed for c in plan.cells} == set(micro.seeds)


def test_all_means_ranked_then_compositions_then_reference_rows_without_variants(micro: Suite) -> None:
    names = suite_pipelines(micro)
    middle = names.index("krum+posthoc_self")
    assert all(defenses.get(name).info.ranked for name in names[:middle])
    assert sorted(names[middle + 1 :]) == ["attackers_removed", "keep_initial", "refuse_all"]
    assert not any(defenses.get(name).info.variant_of for name in names if "+" not in name)
    assert suite_pipelines(changed(micro, defenses=("krum", "fedavg"))) == ["krum", "fedavg", "krum+posthoc_self"]


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
    plan = plan_of(micro, seeds=[11, 12], scenarios=["aligned_start", "reminder_aware"])
    rules = ["fedavg", "median", "trimmed_mean", "krum", "multi_krum", "dnc", "foolsgold", "residual"]
    rules += ["norm_clipping", "keep_initial", "attackers_removed"]
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


def test_a_shape_outside_a_rules_condition_is_not_applicable(plan: Plan) -> None:
    for name in ("krum", "multi_krum", "krum+posthoc_self"):
        reason = cell(plan, "sampled", name).not_applicable
        assert "needs n >= 2f + 3" in reason
        assert "n = 7" in reason
    for scenario in ("paper_shape", "clean_paper_shape"):
        assert "needs n >= 2f + 3" in cell(plan, scenario, "multi_krum").not_applicable
        assert not cell(plan, scenario, "krum_one_neighbour").not_applicable
    assert not [c for c in plan.cells if c.not_applicable and c.scenario.participants == 10]
    trained = {(job.scenario.id, name) for job in plan.jobs for name in job.pipelines.values()}
    assert ("sampled", "krum") not in trained
    assert ("aligned_start", "krum") in trained


def test_degenerate_shapes_are_flagged(plan: Plan) -> None:
    flags = cell(plan, "paper_shape", "trimmed_mean").flags
    assert flags[0].startswith("mis-declared bound")
    assert flags[1:] == ("degenerate: trimmed_mean is the same function as median at n=3, f=1",)
    assert cell(plan, "aligned_start", "trimmed_mean").flags == ()
    assert any(flag.startswith("variant:") for flag in cell(plan, "paper_shape", "krum_one_neighbour").flags)


def test_variants_run_only_where_a_scenario_asks(micro: Suite, plan: Plan) -> None:
    asked = {c.scenario.id for c in plan.cells if c.pipeline.name == "krum_one_neighbour"}
    assert asked == {"paper_shape", "clean_paper_shape"}
    chosen = plan_of(micro, seeds=[11], scenarios=["paper_shape"], pipelines=["fedavg"])
    assert {c.pipeline.name for c in chosen.cells} == {"fedavg"}
    with pytest.raises(UsageError, match="lists 'median' as a variant, but it is a defense of its own; remove it"):
        plan_of(with_scenarios(micro, ("paper_shape", "clean_paper_shape"), variants=("median",)))


def test_a_variant_where_the_rule_itself_is_defined_is_flagged_as_that_rule(micro: Suite) -> None:
    plan = plan_of(micro, seeds=[11], scenarios=["clean"], pipelines=["krum_one_neighbour"])
    assert plan.cells[0].flags == ("degenerate: krum_one_neighbour is the same function as krum at n=10, f=3",)


def test_a_chosen_scenario_brings_its_twin_along(micro: Suite) -> None:
    plan = plan_of(micro, scenarios=["unaligned", "generated"], pipelines=["fedavg", "fedavg"], seeds=[12, 12])
    assert [(c.scenario.id, c.stage.name, c.seed) for c in plan.cells] == [
        ("unaligned", "fedavg", 12),
        ("generated", "fedavg", 12),
        ("clean_raw", "fedavg", 12),
    ]


def test_a_composition_alone_still_makes_every_stage(micro: Suite) -> None:
    plan = plan_of(micro, scenarios=["clean"], pipelines=["fedavg+posthoc_self", "posthoc_public"], seeds=[11])
    assert [c.stage.name for c in plan.cells] == ["fedavg", "fedavg+posthoc_self", "posthoc_public"]
    assert len(plan.jobs) == 1
    assert list(plan.jobs[0].pipelines.values()) == ["fedavg", "fedavg+posthoc_self", "posthoc_public"]


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"scenarios": ["algned_start"]}, "unknown scenario in suite micro 'algned_start'; did you mean"),
        ({"pipelines": ["medain"]}, "unknown defense 'medain'; did you mean 'median'"),
    ],
)
def test_unknown_names_are_refused(micro: Suite, choice: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        plan_of(micro, **choice)


def test_unknown_attacks_parameters_judges_and_worlds_are_refused_before_anything_runs(micro: Suite) -> None:
    with pytest.raises(UsageError, match="unknown attack 'unaligned'; did you mean 'unaligned_data'"):
        plan_of(with_scenario(micro, "aligned_start", attack={"id": "unaligned"}))
    with pytest.raises(UsageError, match="'normal_shar'; did you mean 'normal_share'"):
        plan_of(with_scenario(micro, "blended", attack={"id": "unaligned_data", "params": {"normal_shar": 0.5}}))
    with pytest.raises(UsageError, match="unknown judge 'orakle'; did you mean 'oracle'"):
        plan_of(changed(micro, judges=("orakle",), primary_judge="orakle"))
    with pytest.raises(UsageError, match="unknown task world 'micros'; did you mean 'micro'"):
        plan_of(changed(micro, world="micros"))


def test_what_a_row_says_beside_its_artefacts_is_part_of_the_cells_key(micro: Suite) -> None:
    arguments = {"scenarios": ["clean"], "pipelines": ["fedavg"], "seeds": [11]}
    cell = plan_of(micro, **arguments).cells[0]
    for variant in (
        micro.model_copy(update={"version": "2.0"}),
        micro.model_copy(update={"primary_judge": "rule"}),
        with_scenario(micro, "clean", version="2"),
        with_scenario(micro, "clean", flags=("a remark",)),
    ):
        other = plan_of(variant, **arguments).cells[0]
        assert other.cell_key != cell.cell_key
        assert other.response_key == cell.response_key


def test_the_code_of_plain_averaging_is_part_of_the_training_key(micro: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = {"scenarios": ["clean"], "pipelines": ["posthoc_public"], "seeds": [11]}
    before = plan_of(micro, **arguments).cells[0].training_key
    monkeypatch.setattr(plan_module, "default_aggregate_digest", lambda: "changed")
    assert plan_of(micro, **arguments).cells[0].training_key != before


class OtherProbes(MicroWorld):
    """The micro world, asking less."""

    def probes(self) -> tuple[Probe, ...]:
        return super().probes()[:10]


def test_another_world_asks_other_probes_of_the_same_adapters(micro: Suite) -> None:
    usual = plan_of(micro, pipelines=["krum+posthoc_public"], seeds=[11])
    other = plan_of(micro, pipelines=["krum+posthoc_public"], seeds=[11], world=OtherProbes())
    pairs = list(zip(usual.cells, other.cells, strict=True))
    assert {(a.training_key == b.training_key, a.adapter_key == b.adapter_key) for a, b in pairs} == {(True, True)}
    assert {a.response_key == b.response_key or a.cell_key == b.cell_key for a, b in pairs} == {False}
    assert len(other.world.probes()) == 10
    assert other.probe_set != usual.probe_set


def test_a_method_that_cannot_be_asked_breaks_its_own_cells_only(micro: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = plan_of(micro, pipelines=["krum", "fedavg"], seeds=[11])

    def dead(self: object, participants: int, declared_malicious: int) -> None:
        raise SubmissionError("check_shape() of 'krum' ended its process: exited with status 3")

    monkeypatch.setattr(defenses.get("krum").target, "check_shape", dead)
    broken = plan_of(micro, pipelines=["krum", "fedavg"], seeds=[11])
    assert {c.stage.name for c in broken.cells if c.broken} == {"krum"}
    assert {c.broken for c in broken.cells if c.pipeline.name == "krum"} == {
        "check_shape() of 'krum' ended its process: exited with status 3"
    }
    assert not any("krum" in job.pipelines.values() for job in broken.jobs)
    pairs = zip(usual.cells, broken.cells, strict=True)
    # Once it can be asked again, its cells are those that they always were.
    assert all(a.cell_key == b.cell_key for a, b in pairs if not a.not_applicable and not a.flags)
