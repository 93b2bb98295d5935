"""A model that only a part of a job needs takes memory for that part, where models are large."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmark.errors import SubmissionError
from benchmark.execution import worker
from benchmark.models.lora import initial_adapter
from benchmark.seeds import torch_stream
from benchmark.suites.suite import Suite
from benchmark.training import clients, server
from benchmark.training.clients import Attacker, ClientRows
from benchmark.training.memory import free_memory
from benchmark.training.server import ServedModel
from benchmark.training.stacked import StackedModel
from tests.benchmark.execution.test_sourced_suites import changed, root

__all__ = ["root"]


@pytest.fixture(autouse=True)
def _nothing_open() -> Iterator[None]:
    worker._opened.clear()
    worker._kept_rows.clear()
    yield
    worker._opened.clear()
    worker._kept_rows.clear()


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
    whole: Callable[..., ClientRows] = worker.make_client_rows

    def make(*parts: Any) -> ClientRows:
        attacker = next(part for part in parts if isinstance(part, Attacker))
        assert len(attacker.generate(["w1", "w2"], np.random.default_rng(0), temperature=1.0)) == 2
        asked.append(weakref.ref(attacker._open().stacked))
        return whole(*parts)

    monkeypatch.setattr(worker, "make_client_rows", make)
    return asked


def opened() -> list[str]:
    return [Path(path).name for path, *_ in worker._opened]


def test_the_attackers_model_is_let_go_before_training(root: Path, asking: list[weakref.ref[StackedModel]]) -> None:
    suite = suite_with(attacker="chat")
    worker._client_rows(suite, suite.scenario("made"), 1)
    assert len(asking) == 1
    assert asking[0]() is None
    assert opened() == ["raw"]


def test_an_attacker_who_has_the_model_that_is_trained_leaves_it_open(
    root: Path, asking: list[weakref.ref[StackedModel]]
) -> None:
    suite = suite_with(attacker="raw")
    worker._client_rows(suite, suite.scenario("made"), 1)
    assert asking[0]() is not None
    assert opened() == ["raw"]


def test_an_attack_that_fails_keeps_words_and_no_model(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[weakref.ref[StackedModel]] = []

    def fails(*parts: Any) -> ClientRows:
        model = next(part for part in parts if isinstance(part, Attacker))._open()
        asked.append(weakref.ref(model.stacked))
        raise SubmissionError("ran out of time")

    monkeypatch.setattr(worker, "make_client_rows", fails)
    suite = suite_with(attacker="chat")
    for _ in range(2):
        with pytest.raises(SubmissionError, match=r"^ran out of time$"):
            worker._client_rows(suite, suite.scenario("made"), 1)
    free_memory()
    assert len(asked) == 1
    assert asked[0]() is None


@pytest.mark.parametrize("fails", [False, True])
def test_the_external_model_is_let_go_after_a_finalizer(
    root: Path, fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = suite_with(external="external")
    during: list[list[str]] = []

    class Asking:
        def finalize(self, adapter: Tensor, server: Any) -> Tensor:
            assert len(server.generate_external(["w1"], temperature=0.0)) == 1
            during.append(opened())
            if fails:
                raise RuntimeError("no")
            return adapter

    monkeypatch.setattr(worker, "created", lambda *_, **__: contextlib.nullcontext(Asking()))
    bench = worker._Bench(suite, suite.scenario("made"), 1)
    start = initial_adapter(bench.model.stacked.layout, torch_stream(1, "test"))
    trained = worker._Trained(start, {"usage": vars(worker.Usage())})
    pipeline: Any = SimpleNamespace(name="x", finalizers=[SimpleNamespace(info=SimpleNamespace(id="x"))] * 2)
    with pytest.raises(RuntimeError, match="no") if fails else contextlib.nullcontext():
        assert torch.equal(bench._finalize(trained, pipeline).adapter, start)
    assert during == [["raw", "external"]] * (1 if fails else 2)
    assert opened() == ["raw"]


def test_small_worlds_keep_their_models_open(micro: Suite) -> None:
    world = worker.open_world(micro, micro.scenario("aligned_start"))
    with worker.lent(lambda: worker.open_role(micro, world, "raw"), micro, world, beside="chat") as opener:
        first: ServedModel = opener()
    assert worker.open_role(micro, world, "raw") is first


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
        bench = worker._Bench(suite, suite.scenario(name), 1)
        bench._server("mine").generate(["w1"], adapter=None, temperature=1.0)
        Attacker(bench.world, partial(getattr, bench, "model"), 2).generate(
            ["w1"], np.random.default_rng(0), temperature=1.0
        )
    assert asked == [True, True, False, False]
