"""Names of existing and of misspelt suites, recognised without loading a suite."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmark.suite_names import no_rows, suite_exists
from benchmark.suites.suite import suites


def test_suites_and_their_tiers_exist() -> None:
    assert all(suite_exists(suite.id) for suite in suites.entries())
    tiers = [f"{suite.id}_{tier}" for suite in suites.entries() for tier in suite.tiers]
    assert "paper_lite" in tiers
    assert all(map(suite_exists, tiers))
    assert not any(map(suite_exists, ("mikro", "micro_", "paper_heavy", "lite", "paper_lite_lite", "", "../micro")))


def test_a_suite_without_rows_gets_place_and_way_out() -> None:
    assert str(no_rows("pocket", ["micro", "aligned", "micro"], "runs", "look elsewhere")) == (
        "suite 'pocket' exists, but there are no rows of it in runs, only of aligned, micro; look elsewhere"
    )
    assert str(no_rows("pocket", [], "runs", "look elsewhere", rows="readings")) == (
        "suite 'pocket' exists, but there are no readings of it in runs; look elsewhere"
    )


def test_a_misspelt_suite_gets_the_nearest_of_all_suites() -> None:
    assert str(no_rows("pockt", ["micro"], "runs", "")) == "unknown suite 'pockt'; did you mean 'pocket'?"
    assert str(no_rows("mein", ["meine"], "runs", "")) == "unknown suite 'mein'; did you mean 'meine'?"


def test_suites_of_other_packages_exist_with_their_tiers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[fedsafety.suites]\ntheir_suite = a_package_of_suites\ntheir_broken_suite = a_missing_package\n"
    )
    package = tmp_path / "a_package_of_suites"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "a_package_of_suites.yaml").write_text("id: their_suite\ntiers: {short: {}}\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert [suite_exists(name) for name in ("their_suite", "their_suite_short", "their_suite_long")] == [
        True,
        True,
        False,
    ]
    assert suite_exists("their_broken_suite")
    assert not suite_exists("their_broken_suite_short")


def test_asking_for_names_loads_no_torch() -> None:
    code = (
        "import sys; from benchmark.suite_names import suite_exists; "
        "print(suite_exists('paper_lite'), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]
