"""Trainings that share a first round: which ones, in which order, and in words."""

from __future__ import annotations

import itertools

import pytest

from benchmark.execution.plan import Plan
from benchmark.execution.sharing import Sharing, readers, shared_groups, shares_of_work
from benchmark.suites.suite import Suite
from defenses.krum import Krum
from tests.benchmark.execution.plans import micro, plan, plan_of, whole

__all__ = ["micro", "plan", "whole"]


def names(plan: Plan) -> list[list[tuple[str, int, str]]]:
    """Return scenario, seed and first pipeline of the jobs of every group."""
    groups = shared_groups(plan.jobs).values()
    return [[(job.scenario.id, job.seed, next(iter(job.pipelines.values()))) for job in group] for group in groups]


def test_rules_of_a_scenario_and_seed_share_their_first_round(micro: Suite) -> None:
    pipelines = ["fedavg", "krum", "posthoc_public", "keep_initial", "attackers_removed"]
    plan = plan_of(micro, scenarios=["aligned_start"], pipelines=pipelines, seeds=[11, 12])
    assert names(plan) == [
        [(scenario, seed, rule) for rule in ("fedavg", "krum", "attackers_removed")]
        for seed in (11, 12)
        for scenario in ("aligned_start", "clean")
    ]
    # Clients do not train for keep_initial. posthoc_public repairs the adapter of FedAvg.
    assert len(plan.jobs) == 16
    assert len(readers(plan.jobs)) == 8


def test_scenarios_that_differ_in_the_declared_bound_alone_share_it_too(whole: Suite) -> None:
    plan = plan_of(whole, axes=["declared_bound"], pipelines=["krum"], seeds=[11])
    assert names(plan) == [[(f"bound_{bound}_of_2", 11, "krum") for bound in (1, 2, 3)]]


def test_jobs_that_share_follow_each_other(whole: Suite) -> None:
    plan = plan_of(whole)
    keys = [job.local_key or job.training_key for job in plan.jobs]
    assert len({*keys}) == len(list(itertools.groupby(keys)))
    assert {job.training_key for job in plan.jobs} == {cell.training_key for cell in plan.cells if cell.runs}


def test_a_remark_says_how_often_clients_train(plan: Plan) -> None:
    reusing = len(readers(plan.jobs))
    clients_train = sum(bool(job.local_key) for job in plan.jobs)
    none = len(plan.jobs) - clients_train
    many = Sharing.of(plan.jobs, plan.suite)
    assert many == Sharing(whole=0, first=reusing, trained=clients_train - reusing, none=none)
    among = f"; clients train in {clients_train} of them ({reusing} of these reuse the first round of another)"
    assert many.remark == (f"{among}, and in {none} no client trains" if none else among)
    one = plan.suite.model_copy(update={"training": plan.suite.training.model_copy(update={"rounds": 1})})
    assert Sharing.of(plan.jobs, one) == Sharing(whole=reusing, first=0, trained=clients_train - reusing, none=none)
    assert Sharing(12, 0, 1).remark == "; clients train in 1 of them, and 12 reuse the local training of another"
    assert Sharing(1, 0, 1).remark == "; clients train in 1 of them, and 1 reuses the local training of another"
    assert Sharing(27, 0, 3, none=3).remark == (
        "; clients train in 3 of them, 27 reuse the local training of another, and in 3 no client trains"
    )
    assert Sharing(24, 11, 3, none=2).remark == (
        "; clients train in 14 of them (11 of these reuse the first round of another), 24 reuse the local training of "
        "another, and in 2 no client trains"
    )
    assert Sharing(0, 0, 2, none=1).remark == "; clients train in 2 of them, and in 1 no client trains"
    assert Sharing(0, 0, 4).remark == ""
    assert Sharing.of([], one).remark == ""
    assert Sharing.of(plan.jobs[:1], one).remark == ""


def test_the_numbers_add_up_to_all_trainings(whole: Suite) -> None:
    """Also where nothing is remembered, where trainings are stored, and where attackers come back after the repair."""
    plan = plan_of(whole)
    reattacked = {job.training_key for job in plan.jobs if any(job.reattacks.values())}
    idle = {job.training_key for job in plan.jobs if not job.local_key} - reattacked
    assert reattacked
    assert idle
    for rounds in (1, 2):
        training = whole.training.model_copy(update={"rounds": rounds})
        suite = whole.model_copy(update={"training": training})
        shared = Sharing.of(plan.jobs, suite)
        assert shared.whole + shared.first == len(readers(plan.jobs))
        assert (shared.first > 0) == (rounds > 1 or bool(reattacked & readers(plan.jobs)))
        assert shared.none == len(idle)
        anew = Sharing.of(plan.jobs, suite, ())
        assert anew == Sharing(0, 0, len(plan.jobs) - len(idle), len(idle))
        stored = [job.training_key for job in plan.jobs[:5]]
        some = Sharing.of(plan.jobs, suite, readers(plan.jobs), stored)
        assert some.none == len(idle | {*stored})
        for each in (shared, anew, some):
            assert each.whole + each.first + each.trained + each.none == len(plan.jobs)


def test_the_work_of_a_job_is_counted_in_rows(micro: Suite) -> None:
    plan = plan_of(micro, scenarios=["clean"], pipelines=["fedavg", "krum", "krum+posthoc_public"], seeds=[11])
    training, posthoc = micro.training, micro.posthoc
    step = 10 * training.batch_size
    whole = training.rounds * training.local_steps
    rows = [step * (whole + 1), step * (whole - training.local_steps + 2) + posthoc.steps * posthoc.batch_size]
    shares = shares_of_work(plan.jobs, micro, readers(plan.jobs))
    assert list(shares.values()) == pytest.approx([count / sum(rows) for count in rows])


def test_a_rule_that_prepares_shares_with_no_other(micro: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    pipelines = ["fedavg", "krum", "median"]
    monkeypatch.setattr(Krum, "prepare", lambda self, server: None)
    plan = plan_of(micro, scenarios=["clean"], pipelines=pipelines, seeds=[11])
    assert names(plan) == [[("clean", 11, rule) for rule in ("fedavg", "median")]]
