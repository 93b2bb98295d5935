"""Registries as they were: a test may let them know a method, the next test must not meet it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from attacks.base import attacks
from benchmark.sandbox.proxy import Sandboxed
from defenses.base import defenses


@pytest.fixture(autouse=True)
def registries_as_they_were() -> Iterator[None]:
    with registries_kept():
        yield


@contextmanager
def registries_kept() -> Iterator[None]:
    """Restore the registries of methods at the end."""
    kept = {}
    for registry in (attacks, defenses):
        registry.names()
        kept[registry] = {name: dict(getattr(registry, name)) for name in ("_sources", "_files", "_entries")}
    yield
    for registry, state in kept.items():
        for module in registry._files.keys() - state["_files"].keys():
            sys.modules.pop(module, None)
        # What was built in and has been imported in the meantime registers itself no second time.
        for name, entry in registry._entries.items():
            if name in state["_sources"] and not issubclass(entry.target, Sandboxed):
                state["_entries"].setdefault(name, entry)
        for name, value in state.items():
            getattr(registry, name).clear()
            getattr(registry, name).update(value)
