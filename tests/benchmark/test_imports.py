"""Commands that only read suite files or list methods must start without PyTorch, which takes seconds to import."""

from __future__ import annotations

import subprocess
import sys

import pytest

_HEAVY = ("torch", "transformers", "huggingface_hub")


def imported_by(code: str) -> set[str]:
    """Return which of the heavy packages a fresh process has imported after running ``code``."""
    check = f"import sys; print(*[name for name in {_HEAVY!r} if name in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", f"{code}\n{check}"], capture_output=True, text=True, check=True, timeout=120
    )
    return set(result.stdout.split())


@pytest.mark.parametrize(
    "code",
    [
        "from benchmark.suites.suite import find_suite; find_suite('micro')",
        "from benchmark.suites.suite import suites; suites.entries()",
        "from benchmark.judges.base import judges; judges.entries()",
        "from attacks.base import attacks; attacks.entries()",
    ],
    ids=["a suite file", "all suites", "all judges", "all attacks"],
)
def test_reading_suites_and_listing_methods_imports_no_pytorch(code: str) -> None:
    assert imported_by(code) == set()


def test_heavy_packages_are_seen_where_they_are_imported() -> None:
    assert imported_by("import benchmark.models.lora") >= {"torch", "transformers"}
