"""The tools of a training job draw as their world asks."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from benchmark.execution.bench import Bench, JobTools
from benchmark.suites.suite import Suite
from benchmark.training import clients, server
from benchmark.training.clients import Attacker
from tests.benchmark.execution.test_client_rows import suite_with
from tests.benchmark.execution.test_sourced_suites import root

__all__ = ["root"]


def test_prompts_of_sourced_worlds_have_streams_of_their_own(
    root: Path, micro: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def noted(*_: object, per_prompt: bool, **__: object) -> tuple[list[str], int]:
        asked.append(per_prompt)
        return ["w1"], 1

    for module in (clients, server):
        monkeypatch.setattr(module, "sample", noted)
    for suite, name in ((suite_with(attacker="chat"), "made"), (micro, "aligned_start")):
        tools = JobTools(suite, suite.scenario(name), 1, Bench())
        tools.server("mine").generate(["w1"], adapter=None, temperature=1.0)
        Attacker(tools.world, partial(getattr, tools, "model"), 2).generate(
            ["w1"], np.random.default_rng(0), temperature=1.0
        )
    assert asked == [True, True, False, False]
