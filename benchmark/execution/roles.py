"""Roles of the models that a plan uses beside the trained one: those that generate data, and those of judges."""

from __future__ import annotations

from attacks.base import attacks
from benchmark.execution.plan import TrainingJob
from benchmark.execution.worlds import EXTERNAL_MODEL, attacker_role
from benchmark.judges.base import judges
from benchmark.methods.pipeline import parse_pipeline
from benchmark.registry import Trait
from benchmark.suites.suite import Suite
from tasks.base import TaskWorld
from tasks.model_source import ModelSource


def generating_roles(job: TrainingJob, world: TaskWorld) -> frozenset[str]:
    """Return the models that generate data for a training: the attacker's, or those that its defenses ask.

    Defenses ask the trained model, an external one, or the one before the alignment.

    Methods declare it as traits, for example ``traits=("generates",)``; the contract check compares the declaration
    with the calls that a method makes.
    """
    entries = [entry for name in job.pipelines.values() for entry in parse_pipeline(name).entries]
    declared = {trait for entry in entries for trait in entry.info.traits}
    roles = set()
    if Trait.GENERATES in attacks.get(job.scenario.attack.id).info.traits:
        roles.add(attacker_role(world))
    if Trait.GENERATES_EXTERNAL in declared:
        roles.add(EXTERNAL_MODEL)
    if Trait.GENERATES in declared:
        roles.add(job.scenario.start)
    if Trait.GENERATES_UNALIGNED in declared:
        roles.add(world.unaligned_role(job.scenario.start) or job.scenario.start)
    return frozenset(roles & set(world.roles))


def judge_source(suite: Suite, role: str) -> ModelSource | None:
    """Return the model of a judge that the suite names no model for, or ``None`` if the judge has no model."""
    if role not in suite.judges:
        return None
    default = getattr(judges.get(role).target, "default", None)
    return default if isinstance(default, ModelSource) else None
