"""What every test shares: the platform's abilities, and a loud list of what it cannot run.

A test that needs vLLM, Chromium or a sandbox carries the marker of that name. Where the platform lacks it, the test is
skipped and listed as ``NOT RUN`` above pytest's closing line, like every other skip. With ``CI=true`` such a run fails.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Generator, Iterable

import pytest

from benchmark.errors import SandboxUnavailableError
from benchmark.sandbox.isolation import BACKENDS, Isolation, find_isolation

NOT_RUN_FAILS = os.environ.get("CI", "").lower() == "true"


def find_chromium() -> str | None:
    """Return the path of a system Chromium or Chrome, or ``None``."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((path for name in names if (path := shutil.which(name))), None)


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of the system's browser, for Playwright's ``executable_path``; the test must be marked ``browser``."""
    path = find_chromium()
    assert path is not None, "mark tests that use the browser with @pytest.mark.browser"
    return path


@pytest.fixture(params=BACKENDS)
def isolation(request: pytest.FixtureRequest) -> Isolation:
    """Each way of isolating processes in turn; the test must be marked ``sandbox``."""
    return find_isolation(request.param)


def lacks_isolation(item: pytest.Item) -> str:
    """Return why the sandbox that ``item`` is for cannot be made here, or nothing if it can."""
    call = getattr(item, "callspec", None)
    try:
        find_isolation(call.params.get("isolation", "auto") if call else "auto")
    except SandboxUnavailableError as error:
        return str(error)
    return ""


def pytest_collection_modifyitems(items: Iterable[pytest.Item]) -> None:
    lacking = {}
    if importlib.util.find_spec("vllm") is None:
        lacking["vllm"] = "no vLLM build is installed; `make env` says why"
    if find_chromium() is None:
        lacking["browser"] = "no Chromium or Chrome was found; on Debian and Ubuntu: apt-get install chromium"
    for item in items:
        for marker in lacking.keys() & {mark.name for mark in item.iter_markers()}:
            item.add_marker(pytest.mark.skip(reason=lacking[marker]))
        if item.get_closest_marker("sandbox") and (reason := lacks_isolation(item)):
            item.add_marker(pytest.mark.skip(reason=reason))


def not_run(skipped: Iterable[pytest.TestReport]) -> list[str]:
    """Return one line a reason for skipped tests, with the number of tests and the first of them."""
    tests: dict[str, list[str]] = {}
    for report in skipped:
        text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        tests.setdefault(text.removeprefix("Skipped: "), []).append(report.nodeid)
    return [
        f"NOT RUN: {reason} ({len(ids)} {'test' if len(ids) == 1 else 'tests'}, first {min(ids)})"
        for reason, ids in sorted(tests.items())
    ]


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if NOT_RUN_FAILS and exitstatus == pytest.ExitCode.OK and reporter and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Generator[None, None, None]:
    yield  # first everything else, so that these lines stand directly above the closing line
    lines = not_run(terminalreporter.stats.get("skipped", []))
    if lines:
        ending = "which fails this run, because CI=true" if NOT_RUN_FAILS else "everything else was run"
        terminalreporter.section(f"this machine could not run all tests; {ending}", red=True, bold=True)
        for line in lines:
            terminalreporter.write_line(line, red=True, bold=True)
