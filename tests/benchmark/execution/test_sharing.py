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
    assert many.remark == f"; {reusing} of them reuse the first round of another"
    one = plan.suite.model_copy(update={"training": plan.suite.training.model_copy(update={"rounds": 1})})
    assert Sharing.of(plan.jobs, one) == Sharing(whole=reusing, first=0, trained=clients_train - reusing, none=none)
    assert Sharing(12, 0, 1).remark == "; 12 of them reuse the local training of another, so clients train once"
    assert Sharing(24, 0, 2).remark.endswith("so clients train 2 times")
    assert Sharing(27, 0, 3, none=3).remark == (
        "; 27 of them reuse the local training of another, and 3 train no client, so clients train 3 times"
    )
    assert Sharing(24, 11, 3).remark == "; 24 of them reuse the local training of another, and 11 its first round"
    assert Sharing.of([], one).remark == ""
    assert Sharing.of(plan.jobs[:1], one).remark == ""


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
