"""The pool of open models: how many stay open, and which of them a borrower closes."""

from __future__ import annotations

from benchmark.execution.worlds import open_world
from benchmark.suites.suite import Suite
from benchmark.training.served import ModelPool, RoleModels


def test_small_worlds_keep_their_models_open(micro: Suite) -> None:
    models = RoleModels(ModelPool(), micro, open_world(micro, micro.scenario("aligned_start")))
    with models.lent("raw", beside="chat") as opener:
        first = opener()
    assert models.open("raw") is first


def test_the_pool_closes_the_model_that_was_used_longest_ago(micro: Suite) -> None:
    pool = ModelPool()
    models = RoleModels(pool, micro, open_world(micro, micro.scenario("aligned_start")))
    for role in ("raw", "chat", "external", "judge", "raw"):
        models.open(role)
    assert [spec.path.name for spec in pool.specs] == ["chat", "external", "judge", "raw"]
