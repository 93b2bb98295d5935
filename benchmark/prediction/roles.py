"""The models of a suite by their sizes."""

from __future__ import annotations

from benchmark.execution.roles import judge_source
from benchmark.models.configuration import Model, read_decoder, source_model
from benchmark.models.sizes import Precision
from benchmark.suites.suite import Suite
from tasks.base import TaskWorld


def find_model(suite: Suite, world: TaskWorld, role: str) -> Model | None:
    """Return the model of a role or judge, or ``None`` if neither a configuration nor the suite gives its sizes.

    Nothing is fetched.
    """
    source = suite.models.get(role) or judge_source(suite, role)
    if source is None:
        return Model(read_decoder(world.model_path(role)), Precision("float32")) if role in world.roles else None
    return source_model(source)
