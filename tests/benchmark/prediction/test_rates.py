"""The shares of measured rates: one for a GPU, one for each kind of work on a processor."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmark.execution.plan import Plan, make_plan
from benchmark.generation.needs import Device
from benchmark.models.sizes import GIB
from benchmark.prediction.device import Rate
from benchmark.prediction.rates import Shares, opening_seconds, shares_of
from benchmark.suites.settings import Adapters
from benchmark.suites.suite import Decoding, find_suite

PROCESSOR = Device("cpu", "processor", 24 * GIB)
GPU = Device("cuda", "a GPU", 80 * GIB)


def plan_of(generator: str, adapters: Adapters = "lora") -> Plan:
    plan = make_plan(find_suite("micro"), generator, scenarios=["aligned_start"], pipelines=["fedavg"], seeds=[11])
    return replace(plan, suite=plan.suite.model_copy(update={"decoding": Decoding(adapters=adapters)}))


def test_a_gpu_has_one_share_and_no_measured_opening() -> None:
    plan = plan_of("vllm", "merged")
    assert shares_of(plan, GPU) == Shares(0.4, 0.4, 0.4, 0.4)
    assert str(shares_of(plan, GPU)) == "40% of both"
    assert opening_seconds(plan, GPU) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("generator", "adapters", "answering"),
    [("vllm", "merged", 0.65), ("vllm", "lora", 0.18), ("transformers", "lora", 0.25)],
)
def test_a_processor_answers_by_its_engine(generator: str, adapters: Adapters, answering: float) -> None:
    shares = shares_of(plan_of(generator, adapters), PROCESSOR)
    assert (shares.training, shares.answering, shares.sampling) == (0.6, answering, 0.22)
    assert f"{answering:.0%} in answers and likelihoods" in str(shares)


@pytest.mark.parametrize(("generator", "adapters", "share"), [("vllm", "merged", 0.65), ("vllm", "lora", 0.18)])
def test_vllm_answers_as_slowly_as_products_in_bfloat16_run(generator: str, adapters: Adapters, share: float) -> None:
    """Training takes its products in float32, four times as fast."""
    plan, rate = plan_of(generator, adapters), Rate("processor", "bfloat16", 4e11, 1e10, unwidened=1e11)
    shares = shares_of(plan, PROCESSOR, rate)
    assert shares == Shares(0.6, share / 4, 0.65 / 4, 0.22)
    assert shares_of(plan, PROCESSOR, replace(rate, unwidened=None)) == shares_of(plan, PROCESSOR)


def test_transformers_answers_with_the_products_of_training() -> None:
    plan, rate = plan_of("transformers"), Rate("processor", "bfloat16", 4e11, 1e10, unwidened=1e11)
    assert shares_of(plan, PROCESSOR, rate) == shares_of(plan, PROCESSOR)


def test_only_vllm_takes_long_to_open() -> None:
    assert opening_seconds(plan_of("vllm"), PROCESSOR) == (75.0, 60.0)
    assert opening_seconds(plan_of("transformers"), PROCESSOR) == (0.0, 60.0)
