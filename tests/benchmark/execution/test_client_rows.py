"""Client rows are kept for a scenario's next job, and the attackers' model takes memory only while they are made."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmark.errors import SubmissionError
from benchmark.execution import client_rows
from benchmark.execution.bench import Bench
from benchmark.models.memory import free_memory
from benchmark.suites.suite import Suite
from benchmark.training.clients import Attacker, ClientRows
from benchmark.training.served import ModelPool
from benchmark.training.stacked import StackedModel
from tests.benchmark.execution.test_sourced_suites import changed, root

__all__ = ["root"]


def suite_with(**locals_of: str) -> Suite:
    """Return the made suite with more models, by role and folder."""
    return changed(
        **{
            f"models__{role}": {
                "repository": f"made/{role}",
                "revision": "1" * 40,
                "dtype": "float32",
                "local": folder,
            }
            for role, folder in locals_of.items()
        }
    )


@pytest.fixture
def asking(monkeypatch: pytest.MonkeyPatch) -> list[weakref.ref[StackedModel]]:
    """Let every attack ask its model; returns references to those that were asked."""
    asked: list[weakref.ref[StackedModel]] = []
    whole: Callable[..., ClientRows] = client_rows.make_client_rows

    def make(*parts: Any) -> ClientRows:
        attacker = next(part for part in parts if isinstance(part, Attacker))
        assert len(attacker.generate(["w1", "w2"], np.random.default_rng(0), temperature=1.0)) == 2
        asked.append(weakref.ref(attacker._open().stacked))
        return whole(*parts)

    monkeypatch.setattr(client_rows, "make_client_rows", make)
    return asked


def opened(pool: ModelPool) -> list[str]:
    return [spec.path.name for spec in pool.specs]


def test_the_attackers_model_is_let_go_before_training(root: Path, asking: list[weakref.ref[StackedModel]]) -> None:
    suite, bench = suite_with(attacker="chat"), Bench()
    bench.client_rows.get(suite, suite.scenario("made"), 1)
    assert len(asking) == 1
    assert asking[0]() is None
    assert opened(bench.models) == ["raw"]


def test_an_attacker_who_has_the_model_that_is_trained_leaves_it_open(
    root: Path, asking: list[weakref.ref[StackedModel]]
) -> None:
    suite, bench = suite_with(attacker="raw"), Bench()
    bench.client_rows.get(suite, suite.scenario("made"), 1)
    assert asking[0]() is not None
    assert opened(bench.models) == ["raw"]


def test_an_attack_that_fails_keeps_words_and_no_model(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[weakref.ref[StackedModel]] = []

    def fails(*parts: Any) -> ClientRows:
        model = next(part for part in parts if isinstance(part, Attacker))._open()
        asked.append(weakref.ref(model.stacked))
        raise SubmissionError("ran out of time")

    monkeypatch.setattr(client_rows, "make_client_rows", fails)
    suite, bench = suite_with(attacker="chat"), Bench()
    for _ in range(2):
        with pytest.raises(SubmissionError, match=r"^ran out of time$"):
            bench.client_rows.get(suite, suite.scenario("made"), 1)
    free_memory()
    assert len(asked) == 1
    assert asked[0]() is None
