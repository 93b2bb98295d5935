"""Sources of judges' models."""

from __future__ import annotations

from tasks.base import TaskWorld
from tasks.model_source import ModelSource


def chosen_source(world: TaskWorld | None, role: str, default: ModelSource) -> ModelSource:
    """Return the source of a judge's model: the world's role of this name, or ``default`` without such a role."""
    return default if world is None else world.sources.get(role, default)
