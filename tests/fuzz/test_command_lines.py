"""Odd command lines: a known exit status, one error and no traceback."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.cli.main import main

from ..leaderboard.synthetic import write_rows

WORDS = """
    list defenses attacks suites judges cite power leaderboard doctor overlaps new check submit reproduce publish judge
    --help -h --json --suite --seed --runs --results --defense --dry-run --scenario --out --quick --workers --engine
    micro paper krum fedavg krum+krum krum+ + byzfl:Krum byzfl:Nothing(x=1) nothing nothing.yaml nothing.py nothing.zip
    -1 11 1e9 99999999999999999999 [bold] [/] -- - --nothing --seed=x --seed=11 .. /dev/null --version
    transformers run
"""
PARTS = [*WORDS.split(), "\udcff", "a\nb", ""]
HARMLESS = (
    "list",
    "cite",
    "power",
    "new",
    "check",
    "submit",
    "reproduce",
    "publish",
    "judge",
    "overlaps",
    "leaderboard",
)
"""First words of commands that train nothing on a folder without rows."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a working folder with few committed rows; all rows of the project would take seconds in each example."""
    folder = tmp_path_factory.mktemp("work")
    write_rows(folder / "results")
    return folder


def _status() -> int:
    """Return the exit status of the command in ``sys.argv``."""
    try:
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    return 0


@settings(settings.get_profile("fuzz"))
@given(
    first=st.sampled_from([*HARMLESS, "nothing", "--help", "run --dry-run"]),
    rest=st.lists(st.sampled_from(PARTS), max_size=4),
)
def test_a_command_line_is_run_or_explained(
    folder: Path, capfd: pytest.CaptureFixture[str], first: str, rest: list[str]
) -> None:
    arguments = [*first.split(), *rest]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["fedsafety", *arguments])
        status = _status()
    out, err = capfd.readouterr()
    assert status in (0, 1, 2), arguments
    assert "Traceback" not in out + err, arguments
    if status:
        assert err.strip(), f"{arguments} fails without a message"
