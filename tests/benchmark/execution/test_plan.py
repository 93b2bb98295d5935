"""Plans: which cells cannot be scored, which are flagged, and which are refused."""

from __future__ import annotations

import pytest

from benchmark.errors import SubmissionError, UsageError
from benchmark.execution.plan import Plan
from benchmark.suites.suite import Suite
from defenses.base import defenses
from tasks.base import Probe
from tasks.micro import MicroWorld
from tests.benchmark.execution.plans import cell, changed, micro, plan, plan_of, with_scenario

__all__ = ["micro", "plan"]


def test_a_shape_outside_a_rules_condition_is_not_applicable(plan: Plan) -> None:
    for name in ("krum", "multi_krum", "krum+posthoc_self"):
        reason = cell(plan, "sampled", name).not_applicable
        assert "needs n >= 2f + 3" in reason
        assert "n = 7" in reason
    for scenario in ("paper_shape", "clean_paper_shape"):
        assert "needs n >= 2f + 3" in cell(plan, scenario, "multi_krum").not_applicable
        assert not cell(plan, scenario, "krum_one_neighbour").not_applicable
    assert not any(c.not_applicable for c in plan.cells if c.scenario.participants == 10)
    named = plan_of(plan.suite, scenarios=["aligned_start"], pipelines=["bulyan"], seeds=[11])
    assert all("needs n >= 4f + 3" in c.not_applicable for c in named.cells)
    trained = {(job.scenario.id, name) for job in plan.jobs for name in job.pipelines.values()}
    assert ("sampled", "krum") not in trained
    assert ("aligned_start", "krum") in trained


def test_degenerate_shapes_are_flagged(plan: Plan) -> None:
    flags = cell(plan, "paper_shape", "trimmed_mean").flags
    assert flags[0].startswith("mis-declared bound")
    assert flags[1:] == ("degenerate: trimmed_mean is the same function as median at n=3, f=1",)
    assert cell(plan, "aligned_start", "trimmed_mean").flags == ()
    assert any(flag.startswith("variant:") for flag in cell(plan, "paper_shape", "krum_one_neighbour").flags)


def test_a_variant_where_the_rule_itself_is_defined_is_flagged_as_that_rule(micro: Suite) -> None:
    plan = plan_of(micro, seeds=[11], scenarios=["clean"], pipelines=["krum_one_neighbour"])
    assert plan.cells[0].flags == ("degenerate: krum_one_neighbour is the same function as krum at n=10, f=3",)


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
