"""Sensitivity sets: what points become, which twins they share, what is planned for them, and re-attacks."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmark.errors import UsageError
from benchmark.execution.catalog import catalog_rows
from benchmark.execution.plan import CellPlan, Plan, make_plan
from benchmark.suites.sensitivity import SensitivityScenario
from benchmark.suites.suite import Suite, find_suite, read_suite, suites

MICRO: dict[str, Any] = yaml.safe_load(Path(suites._source("micro")[0]).read_text(encoding="utf-8"))
TINY = Path(__file__).resolve().parents[2] / "end_to_end" / "tiny.yaml"


def plan_of(suite: Suite, **choice: Any) -> Plan:
    return make_plan(suite, "transformers", **choice)


def cells(plan: Plan, scenario: str) -> list[CellPlan]:
    return [cell for cell in plan.cells if cell.scenario.id == scenario]


def test_a_point_is_its_base_with_one_setting_changed_and_a_twin_without_attack() -> None:
    suite = find_suite("micro")
    base, section = suite.scenario("aligned_start"), suite.sensitivity
    assert section is not None
    named = {"id", "version", "title", "description", "twin", "flags", "seeds", "defenses", "sensitivity"}
    for axis in section.axes:
        assert axis.base == base.id
        for position, point in enumerate(axis.points):
            if point.scenario is not None:
                continue
            made = suite.scenario(point.name)
            assert isinstance(made, SensitivityScenario)
            differ = {k for k, v in made.model_dump().items() if k not in named and v != base.model_dump()[k]}
            changed = {k for k, v in point.set.items() if k != "flags" and v != base.model_dump()[k]}
            assert differ == changed != set() or point.defenses
            place = made.sensitivity
            assert (place.axis, place.value, place.position, place.twin) == (axis.id, point.value, position, False)
            twin = suite.scenario(made.twin)
            assert (twin.attack.id, twin.malicious, twin.twin) == ("none", 0, twin.id)
            for felt in ("start", "clients", "participants", "partition", "refusal_share", "reattack_rounds"):
                assert getattr(twin, felt) == getattr(made, felt)


def test_twins_that_train_the_same_are_shared() -> None:
    suite = find_suite("micro")
    shared = ("share_10", "share_20", "share_40", "bound_1_of_2", "bound_3_of_2", "blend_50", "blend_80")
    assert {suite.scenario(name).twin for name in shared} == {"clean"}
    assert suite.scenario("sampled_3").twin == "clean_sampled_3"
    twins = [s.id for s in suite.points if s.sensitivity.twin]
    assert all(name.startswith("clean_") for name in twins)
    assert len(twins) == len(set(twins))


def test_the_declared_bound_is_true_or_the_row_says_otherwise() -> None:
    for scenario in find_suite("micro").points:
        wrong = scenario.declared_malicious != min(scenario.malicious, scenario.participants)
        if scenario.attacked and wrong:
            assert any("bound" in flag for flag in scenario.flags), scenario.id


def test_sets_have_fedavg_and_at_most_four_defenses_on_three_scored_seeds() -> None:
    suite = find_suite("micro")
    for scenario in suite.points:
        assert scenario.defenses[0] == "fedavg"
        assert len(scenario.defenses) <= 5
        assert len(scenario.seeds) == 3
        assert set(scenario.seeds) <= set(suite.seeds)


@pytest.fixture
def refused(tmp_path: Path) -> Callable[..., str]:
    """Return the message for the micro suite with its sensitivity section changed."""

    def message(change: Callable[[Any], None]) -> str:
        content = copy.deepcopy(MICRO)
        change(content["sensitivity"])
        path = tmp_path / "suite.yaml"
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        with pytest.raises(UsageError) as raised:
            read_suite(path)
        assert "\n" not in str(raised.value)
        return str(raised.value)

    return message


def point(**changes: Any) -> Callable[[Any], None]:
    def change(section: Any) -> None:
        section["axes"][0]["points"][0].update(changes)

    return change


def axis(**changes: Any) -> Callable[[Any], None]:
    def change(section: Any) -> None:
        section["axes"][0].update(changes)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (axis(base="algned_start"), "unknown axis 'malicious_share': base scenario 'algned_start'; did you mean 'alig"),
        (point(set={"malicous": 1}), "unknown setting of point 'share_10' 'malicous'; did you mean 'malicious'?"),
        (point(set={"twin": "clean"}), "unknown setting of point 'share_10' 'twin'"),
        (point(set={"malicious": 11}), "point share_10: malicious 11 exceed clients 10; at most all clients"),
        (point(set={"malicious": "two"}), "point share_10.malicious: Input should be a valid integer"),
        (point(value=20), "axis 'malicious_share' has the value 20 twice; keep one"),
        (point(id="share_20"), "axis 'malicious_share': scenario id 'share_20' is taken; rename the point"),
        (point(id="clean"), "scenario id 'clean' is taken; rename the point"),
        (point(id="Share"), "id: String should match pattern"),
        (point(scenario="clean"), "point 10 must have either 'scenario', the id of a scenario of the suite, or 'id'"),
        (point(id=None), "point 10 must have either 'scenario', the id of a scenario of the suite, or 'id'"),
        (point(id=None, set={}, scenario="clan"), "scenario 'clan'; did you mean 'clean'?"),
        (point(value=None), "value: must be a finite number or a text (got None)"),
        (axis(id="blend"), "axis id 'blend' repeats; rename one"),
        (axis(tittle="x"), "unknown key 'tittle'"),
        (axis(points=[]), "points: Tuple should have at least 2 items"),
        (lambda section: section.update(defenses=[]), "defenses: must be a list of at least one defense id"),
    ],
)
def test_a_broken_rule_is_named_in_one_line(
    refused: Callable[..., str], change: Callable[[Any], None], message: str
) -> None:
    assert message in refused(change)


def test_an_unknown_defense_and_an_unknown_axis_are_refused(micro: Suite) -> None:
    content = micro.model_dump()
    content["sensitivity"]["axes"][0]["defenses"] = ["fedavg", "medain"]
    with pytest.raises(UsageError, match="unknown defense 'medain'; did you mean 'median'"):
        plan_of(Suite.model_validate(content))
    with pytest.raises(UsageError, match="unknown axis 'malicious_shares'; did you mean 'malicious_share'"):
        plan_of(micro, axes=["malicious_shares"])
    with pytest.raises(UsageError, match="suite 'micro' has no sensitivity axes; leave --axis out"):
        plan_of(micro.model_copy(update={"sensitivity": None}), axes=["all"])


def test_the_sets_change_no_key_of_the_other_scenarios(micro: Suite) -> None:
    alone = plan_of(micro.model_copy(update={"sensitivity": None}), seeds=[11, 20])
    whole = plan_of(micro, seeds=[11, 20])
    ranked = [c for c in whole.cells if not isinstance(c.scenario, SensitivityScenario)]
    assert [c.cell_key for c in ranked] == [c.cell_key for c in alone.cells]
    assert len(whole.cells) > len(alone.cells)


def test_the_whole_suite_runs_points_on_their_own_seeds_and_defenses(micro: Suite) -> None:
    plan = plan_of(micro)
    for made in micro.points:
        found = {(c.pipeline.name, c.seed) for c in cells(plan, made.id)}
        assert found == {(name, seed) for name in made.defenses for seed in made.seeds}
    chosen = plan_of(micro, pipelines=["fedavg", "krum"], seeds=[12, 40])
    assert {(c.pipeline.name, c.seed) for c in cells(chosen, "share_10")} == {("fedavg", 12)}
    assert {c.seed for c in cells(chosen, "clean")} == {12, 40}


def test_an_axis_alone_has_all_its_points_and_their_twins(micro: Suite) -> None:
    plan = plan_of(micro, axes=["participants"])
    under_attack = {"fedavg", "trimmed_mean", "multi_krum", "foolsgold", "posthoc_self"}
    expected = dict.fromkeys(("sampled_3", "sampled", "aligned_start"), under_attack)
    expected |= {name: {"fedavg"} for name in ("clean_sampled_3", "clean_sampled", "clean")}
    assert {c.scenario.id for c in plan.cells} == set(expected)
    for name, defenses in expected.items():
        assert {c.pipeline.name for c in cells(plan, name)} == defenses
        assert {c.seed for c in cells(plan, name)} == {11, 12, 13}
    everything = plan_of(micro, axes=["all"])
    assert {c.cell_key for c in plan.cells} <= {c.cell_key for c in everything.cells}
    other = plan_of(micro, axes=["participants"], pipelines=["median"], seeds=[30])
    assert {(c.pipeline.name, c.seed) for c in other.cells} == {("median", 30)}
    one = plan_of(micro, scenarios=["share_10"])
    assert {(c.scenario.id, c.pipeline.name) for c in one.cells} == {("share_10", n) for n in under_attack} | {
        ("clean", "fedavg")
    }


def test_the_ablation_shares_the_training_and_stays_out_of_the_ranked_scenarios(micro: Suite) -> None:
    plan = plan_of(micro, seeds=[11])
    variants = {"posthoc_public_aligned_only", "posthoc_public_contrast"}
    assert {c.scenario.id for c in plan.cells if c.pipeline.name in variants} == {
        "posthoc_aligned_only",
        "clean_posthoc_aligned_only",
        "posthoc_contrast",
        "clean_posthoc_contrast",
    }
    (ours,) = (c for c in cells(plan, "posthoc_contrast") if c.pipeline.name == "posthoc_public_contrast")
    published = next(c for c in cells(plan, "aligned_start") if c.pipeline.name == "posthoc_public")
    assert ours.training_key == published.training_key
    assert ours.adapter_key != published.adapter_key
    assert ours.flags == ("variant: posthoc_public_contrast replaces posthoc_public",)


def test_reattacks_share_the_training_and_have_adapters_of_their_own(micro: Suite) -> None:
    plan = plan_of(micro, axes=["reattack"], seeds=[11])
    fedavg = {
        name: next(c for c in cells(plan, name) if c.pipeline.name == "fedavg")
        for name in ("aligned_start", "reattack_1", "reattack_5", "reattack_10")
    }
    assert len({c.training_key for c in fedavg.values()}) == 1
    assert len({c.adapter_key for c in fedavg.values()}) == 4
    job = next(job for job in plan.jobs if job.training_key == fedavg["aligned_start"].training_key)
    assert sorted(job.reattacks.values()) == [1] * 4 + [5] * 4 + [10] * 4
    assert fedavg["aligned_start"].adapter_key not in job.reattacks


def test_catalog_rows_say_where_a_scenario_lies(micro: Suite) -> None:
    rows = {row["id"]: row for row in catalog_rows(plan_of(micro, seeds=[11])) if row["kind"] in ("scenario", "suite")}
    assert json.loads(rows["share_40"]["settings"])["sensitivity"] == {
        "axis": "malicious_share",
        "title": "Share of malicious clients",
        "unit": "%",
        "value": 40,
        "position": 3,
        "base": "aligned_start",
        "twin": False,
    }
    assert json.loads(rows["clean_sampled_3"]["settings"])["sensitivity"]["twin"] is True
    assert "sensitivity" not in json.loads(rows["aligned_start"]["settings"])
    axes = json.loads(rows["micro"]["settings"])["sensitivity"]["axes"]
    assert [p["scenario"] for p in axes[0]["points"]] == [None, None, "aligned_start", None]


def test_a_twin_with_an_extent_of_its_own_is_shared_where_it_has_the_points_cells(tmp_path: Path) -> None:
    """A suite on data of its own, as ``pocket``: an axis over the rounds of training, and one over the attack."""
    content: Any = yaml.safe_load(Path(suites._source("pocket")[0]).read_text(encoding="utf-8"))
    [base] = [scenario for scenario in content["scenarios"] if scenario["id"] == "one_shot"]
    [clean] = [scenario for scenario in content["scenarios"] if scenario["id"] == "clean_one_shot"]
    clean["defenses"] = ["fedavg", "krum"]
    clean["seeds"], base["seeds"] = [11, 12, 13, 14], [11, 12]
    content["scenarios"] = [base, clean]
    points = [{"value": share, "id": f"share_{share}", "set": {"malicious": share}} for share in (1, 2)]
    shares = {"id": "share", "title": "Malicious", "description": "Malicious clients of ten.", "base": "one_shot"}
    rounds = {"id": "length", "title": "Rounds", "description": "Rounds of the federation.", "base": "one_shot"}
    longer = [{"value": n, "id": f"rounds_{n}", "set": {"training": {"rounds": n}}} for n in (2, 4)]
    content["sensitivity"] = {
        "seeds": [12, 13],
        "defenses": ["fedavg", "median"],
        "axes": [{**shares, "points": points}, {**rounds, "points": longer}],
    }
    path = tmp_path / "suite.yaml"

    def read() -> Suite:
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        return read_suite(path)

    suite = read()
    assert [(s.id, s.twin) for s in suite.points if s.attacked] == [
        ("share_1", "clean_one_shot"),
        ("share_2", "clean_one_shot"),
        ("rounds_2", "clean_rounds_2"),
        ("rounds_4", "clean_rounds_4"),
    ]
    made = suite.scenario("rounds_4")
    assert (made.seeds, made.defenses) == ((12, 13), ("fedavg", "median"))
    assert (suite.under(made).training.rounds, suite.under(suite.scenario("clean_rounds_4")).training.rounds) == (4, 4)
    assert suite.under(suite.scenario("share_1")).training.rounds == 1
    clean["seeds"] = [11, 12]  # without seed 13 of the points
    assert {s.twin for s in read().points if s.attacked} >= {"clean_share_1"}
