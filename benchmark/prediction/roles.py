"""The models of a suite by their sizes: from a configuration that is here, or from what the suite or a judge says."""

from __future__ import annotations

import contextlib
import inspect
import sys
from typing import Any

from attacks.base import attacks
from benchmark.execution.plan import TrainingJob
from benchmark.execution.worlds import EXTERNAL_MODEL, attacker_role
from benchmark.judges.base import judges
from benchmark.methods.pipeline import parse_pipeline
from benchmark.models.configuration import Model, read_decoder, source_model
from benchmark.models.sizes import Precision
from benchmark.registry import Entry
from benchmark.suites.suite import Suite
from tasks.base import TaskWorld
from tasks.hub.settings import ModelSource


def find_model(suite: Suite, world: TaskWorld, role: str) -> Model | None:
    """Return the model of a role or judge, or ``None`` if nothing here says how large it is. Nothing is fetched."""
    source = suite.models.get(role) or judge_source(suite, role)
    if source is None:
        return Model(read_decoder(world.model_path(role)), Precision("float32")) if role in world.roles else None
    return source_model(source)


def generating_roles(job: TrainingJob, world: TaskWorld) -> frozenset[str]:
    """Return the models that generate data for a training: the attacker's, an external one, or the trained one.

    Whether a method asks them is read off its code; of a submitted one, which is not loaded here, it is not known.
    """
    entries = [entry for name in job.pipelines.values() for entry in parse_pipeline(name).entries]
    asked = set()
    if _calls(attacks.get(job.scenario.attack.id), "generate"):
        asked.add(attacker_role(world))
    if any(_calls(entry, "generate_external") for entry in entries):
        asked.add(EXTERNAL_MODEL)
    if any(_calls(entry, "generate") for entry in entries):
        asked.add(job.scenario.start)
    return frozenset(asked & set(world.roles))


def _calls(entry: Entry[Any, Any], method: str) -> bool:
    """Return whether the modules of a method, and of what it derives from, call a method of this name on something."""
    texts = []
    for module in {kind.__module__ for kind in entry.target.__mro__} - {"builtins"}:
        with contextlib.suppress(OSError, TypeError):  # made at run time: there is no text of it
            texts.append(inspect.getsource(sys.modules[module]))
    return any(f".{method}(" in text for text in texts)


def judge_source(suite: Suite, role: str) -> ModelSource | None:
    """Return where a judge's model comes from if the suite names none, or ``None`` if it is no such judge."""
    if role not in suite.judges:
        return None
    default = getattr(judges.get(role).target, "default", None)
    return default if isinstance(default, ModelSource) else None
