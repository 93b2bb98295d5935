"""The registries' state is restored after each test here, as it is in the tests of submissions."""

from __future__ import annotations

from tests.benchmark.submission.conftest import registries_as_they_were

__all__ = ["registries_as_they_were"]
