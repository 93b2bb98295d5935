"""Checks in the sandbox of methods that misbehave only towards a check."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from benchmark.progress import Reporter
from benchmark.submission.contract.check import Options, check_submission
from benchmark.submission.contract.report import CheckReport, Verdict

from .conftest import isolation_called
from .play import method

pytestmark = pytest.mark.slow
SCALES = {"defense": ((3, 1, 4096),)}


def checked(name: str, seconds: float = 60.0) -> CheckReport:
    """Return the report of a check without its smoke run."""
    options = Options(isolation=isolation_called("auto").name, scales=SCALES, seconds=seconds)
    return check_submission(method(name), None, Reporter(Console(file=StringIO())), options)


def failures(report: CheckReport) -> dict[str, str]:
    """Return what failed, by the name of the check."""
    return {each.check: each.found for each in report.findings if each.verdict is Verdict.FAILED}


@pytest.mark.parametrize(
    ("name", "check", "words"),
    [
        ("metadata_claims", "claims", "title 'Krum, verified (rank 1)' has the word 'verified'"),
        ("metadata_borrows_title", "title", "is that of defense 'krum' ('Krum')"),
    ],
)
def test_words_that_are_the_benchmarks_own_do_not_pass(name: str, check: str, words: str) -> None:
    report = checked(name)
    assert not report.passed
    assert failures(report).keys() == {check}
    assert words in failures(report)[check]


@pytest.mark.parametrize("name", ["metadata_changes", "metadata_changes_alone"])
def test_a_method_that_changes_between_imports_does_not_pass(name: str) -> None:
    found = failures(checked(name))
    assert "same_metadata" in found
    assert all("describes itself in another way than before" in text for text in found.values())


def test_a_method_that_always_waits_ends_with_the_bound_on_the_whole_check() -> None:
    report = checked("waits_in_every_hook", seconds=6.0)
    assert not report.passed
    assert any("took longer than 6 s in all" in text for text in failures(report).values())
