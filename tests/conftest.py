"""What every test shares: the platform's abilities, and a loud list of what it cannot run.

A test that needs vLLM, Chromium or a sandbox carries the marker of that name. Where the platform lacks it, the test is
skipped and listed as ``NOT RUN`` above pytest's closing line, like every other skip. With ``CI=true`` such a run fails.

With ``-n 2 --dist loadgroup``, as in ``make test``, the tests of one file stay in one process, and so do those of the
folders in ``GROUPS``, which share an engine or a finished run, or watch the machine's processes.

Tests marked ``real_data`` read public files that are not in the repository. They run with ``--data-root FOLDER`` (or
the variable ``FEDSAFETY_TEST_DATA``), and are listed as ``NOT RUN`` without; that alone fails no run, since
whoever has only a clone cannot have the files.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Generator, Iterable
from pathlib import Path

import pytest

from benchmark.errors import SandboxUnavailableError
from benchmark.sandbox.isolation import BACKENDS, Isolation, find_isolation

ROOT = Path(__file__).resolve().parent.parent
GROUPS = {
    "tests/end_to_end": "runs",
    "tests/benchmark/generation": "engines",
    "tests/benchmark/harness": "engines",
    "tests/benchmark/sandbox": "sandboxes",
    "tests/hostile": "hostile",
}
"""Folders whose tests run one after another in one process. They take long, so they start before the other tests."""

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


@pytest.fixture(params=[BACKENDS[0], *(pytest.param(name, marks=pytest.mark.exhaustive) for name in BACKENDS[1:])])
def isolation(request: pytest.FixtureRequest) -> Isolation:
    """Each way of isolating processes in turn, all but the first in exhaustive tests; mark the test ``sandbox``."""
    return find_isolation(request.param)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--data-root",
        default=os.environ.get("FEDSAFETY_TEST_DATA", ""),
        help="Folder of public data files for the tests marked real_data (docs/real_models.md has the layout).",
    )


@pytest.fixture(scope="session")
def real_data(request: pytest.FixtureRequest) -> Path:
    """Folder of public data files; the test must be marked ``real_data``."""
    return Path(request.config.getoption("--data-root"))


def lacks_isolation(item: pytest.Item) -> str:
    """Return why the sandbox that ``item`` is for cannot be made here, or nothing if it can."""
    call = getattr(item, "callspec", None)
    try:
        find_isolation(call.params.get("isolation", "auto") if call else "auto")
    except SandboxUnavailableError as error:
        return str(error)
    return ""


NO_DATA = "no folder of public data files; name one with --data-root or FEDSAFETY_TEST_DATA"


def group_of(path: Path) -> str:
    """Return the name of the group whose tests run in one process: that of the folder, or else the file itself."""
    file = path.relative_to(ROOT).as_posix()
    return next((group for folder, group in GROUPS.items() if file.startswith(f"{folder}/")), file)


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in the hook of the same name
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.pluginmanager.hasplugin("xdist"):
        items.sort(key=lambda item: group_of(item.path) not in GROUPS.values())
        for item in items:
            item.add_marker(pytest.mark.xdist_group(group_of(item.path)))
    lacking = {}
    root = config.getoption("--data-root")
    if not root:
        lacking["real_data"] = NO_DATA
    elif not Path(root).is_dir():
        raise pytest.UsageError(f"--data-root (or FEDSAFETY_TEST_DATA) {root} is no folder")
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


def fails(skipped: Iterable[pytest.TestReport]) -> bool:
    """Whether skips fail a run that may leave nothing out: all but those for want of data that no clone brings."""
    return any(NO_DATA not in str(report.longrepr) for report in skipped)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if NOT_RUN_FAILS and exitstatus == pytest.ExitCode.OK and reporter and fails(reporter.stats.get("skipped", [])):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Generator[None, None, None]:
    yield  # first everything else, so that these lines stand directly above the closing line
    skipped = terminalreporter.stats.get("skipped", [])
    lines = not_run(skipped)
    if lines:
        failing = NOT_RUN_FAILS and fails(skipped)
        ending = "which fails this run, because CI=true" if failing else "everything else was run"
        terminalreporter.section(f"this machine could not run all tests; {ending}", red=True, bold=True)
        for line in lines:
            terminalreporter.write_line(line, red=True, bold=True)
