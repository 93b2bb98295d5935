"""Claims: the gaps that a claim names are those of each scenario's own seeds and defenses."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from benchmark.methods.kinds import DEFENSE
from benchmark.submission.bundle.claim import _gaps, seeds_of
from benchmark.suites.suite import Suite
from tests.benchmark.execution.plans import micro, plan_of, with_scenarios

__all__ = ["micro"]


def test_a_claim_lacks_only_what_the_suite_runs(micro: Suite) -> None:
    seeded = with_scenarios(micro, ("blended", "clean_blended"), seeds=(11, 12, 31))
    suite = with_scenarios(seeded, ("clean_blended",), defenses=("fedavg",))
    method: Any = SimpleNamespace(kind=DEFENSE)
    assert seeds_of(suite) == {*micro.seeds, 31}
    assert _gaps(method, plan_of(suite, pipelines=["krum"]), suite) == ()
    [lacking] = _gaps(method, plan_of(suite, pipelines=["krum"], seeds=[11, 31, *micro.seeds[2:]]), suite)[:1]
    assert lacking.startswith("krum lacks seeds 12 of aligned_start, ")
    assert "blended" in lacking
    assert "clean_blended" not in lacking
    without = plan_of(suite, pipelines=["krum"], scenarios=["aligned_start"])
    [whole] = [gap for gap in _gaps(method, without, suite) if "blended" in gap]
    assert whole.startswith("krum lacks all seeds of ")
