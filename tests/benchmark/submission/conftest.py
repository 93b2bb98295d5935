"""Registries as they were: a test may let them know a method, the next test must not meet it."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from attacks.base import attacks
from defenses.base import defenses


@pytest.fixture(autouse=True)
def registries_as_they_were() -> Iterator[None]:
    kept = []
    for registry in (attacks, defenses):
        registry.names()
        kept.append((registry, {name: dict(getattr(registry, name)) for name in ("_sources", "_entries", "_files")}))
    yield
    for registry, state in kept:
        for module in registry._files.keys() - state["_files"].keys():
            sys.modules.pop(module, None)
        for name, value in state.items():
            getattr(registry, name).clear()
            getattr(registry, name).update(value)
