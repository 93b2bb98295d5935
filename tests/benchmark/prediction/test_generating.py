"""The number of sequences that attacks and defenses generate."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmark.execution.plan import TrainingJob, make_plan
from benchmark.prediction.generating import attack_sequences, defense_sequences
from benchmark.suites.scenario import AttackSettings
from benchmark.suites.suite import find_suite


def job_of(*pipelines: str) -> TrainingJob:
    plan = make_plan(find_suite("micro"), "vllm", scenarios=["generated"], pipelines=pipelines, seeds=[11])
    return next(job for job in plan.jobs if job.scenario.id == "generated")


@pytest.mark.parametrize(
    ("attack", "params", "sequences"),
    [
        ("answered_shards", {"pool_size": 220}, 220),
        ("generated_shards", {"pool_size": 100}, 300),
        ("generated_shards", {}, 4500),
        ("generated_data", {}, 1500),
        ("unaligned_data", {}, 0),
    ],
)
def test_an_attack_generates_an_answer_or_two_proposals_and_an_answer(
    attack: str, params: dict[str, int], sequences: int
) -> None:
    job = job_of("fedavg")
    scenario = job.scenario.model_copy(update={"attack": AttackSettings(id=attack, params=params)})
    assert attack_sequences(replace(job, scenario=scenario)) == sequences
    honest = scenario.model_copy(update={"malicious": 0})
    assert attack_sequences(replace(job, scenario=honest)) == 0


def test_a_defense_generates_three_sequences_for_each_pair() -> None:
    job = job_of("fedavg", "posthoc_self", "posthoc_external", "posthoc_public")
    assert defense_sequences(job, 64, "before") == {"external": 192, job.scenario.start: 192, "before": 0}
    assert set(defense_sequences(job_of("fedavg"), 64, "before").values()) == {0}


def test_the_model_before_the_alignment_answers_once_for_each_harmful_row() -> None:
    job = job_of("fedavg", "antidote")
    assert defense_sequences(job, 64, "before") == {"external": 0, job.scenario.start: 0, "before": 32}
    assert defense_sequences(job, 64, job.scenario.start) == {"external": 0, job.scenario.start: 32}
