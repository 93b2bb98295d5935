"""The entry of the console command: UTF-8 whatever the locale, and standard streams that are open."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmark.cli.start import main

POSIX = {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
"""Environment in which Python decodes names, arguments and files as ASCII."""


def start(
    *arguments: str | bytes, cwd: Path, redirect: str = "", **environment: str
) -> subprocess.CompletedProcess[bytes]:
    """Run the console command as a shell does, with a redirection such as ``>&-``."""
    unset = {name: value for name, value in os.environ.items() if name not in {"PYTHONIOENCODING", "PYTHONUTF8"}}
    words = [sys.executable, "-P", "-m", "benchmark.cli.start", *arguments]
    command = ["sh", "-c", f'"$@" {redirect}', "sh", *words]
    return subprocess.run(command, cwd=cwd, env=unset | environment, capture_output=True, check=False)


def test_any_locale_gives_a_process_in_utf8_that_prints_what_its_terminal_can_show(tmp_path: Path) -> None:
    done = start("list", "judges", cwd=tmp_path, **POSIX)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.isascii()
    assert b"?" in done.stdout  # an umlaut in an author's name
    printed = start("list", "judges", "--json", cwd=tmp_path, **POSIX).stdout
    assert json.loads(printed.decode("ascii"))["judges"]


def test_the_module_of_the_command_line_starts_as_the_command_does(tmp_path: Path) -> None:
    words = [sys.executable, "-P", "-m", "benchmark.cli.main", "run", "--dry-run", "--runs"]
    (tmp_path / "läufe").touch()
    (tmp_path / "tmp").mkdir()
    environment = os.environ | POSIX | {"TMPDIR": str(tmp_path / "tmp")}
    done = subprocess.run([*words, "läufe".encode()], cwd=tmp_path, env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.endswith(b" is a file; give another folder with --runs\n")
    assert list((tmp_path / "tmp").iterdir()) == []


def test_windows_is_named_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(SystemExit, match="error: fedsafety runs on Linux and macOS; on Windows, install it in WSL"):
        main()


def test_arguments_that_are_not_ascii_or_not_utf8_survive(tmp_path: Path) -> None:
    (tmp_path / "läufe").touch()
    (tmp_path / os.fsdecode(b"r\xff")).touch()
    for folder in ("läufe".encode(), b"r\xff"):
        done = start("run", "--dry-run", "--engine", "transformers", "--runs", folder, cwd=tmp_path, **POSIX)
        assert (done.returncode, done.stdout) == (1, b"")
        # The file was found, so its name arrived byte by byte.
        assert done.stderr.endswith(b" is a file; give another folder with --runs\n")


@pytest.mark.parametrize("options", [["-E"], ["-X", "utf8=0"]])
def test_a_process_replaces_itself_once_at_most(options: list[str], tmp_path: Path) -> None:
    command = [sys.executable, *options, "-P", "-m", "benchmark.cli.start", "--version"]
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | POSIX, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("fedsafetybench ")


@pytest.mark.parametrize("redirect", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("environment", [{}, POSIX], ids=["utf8", "posix"])
def test_closed_streams_do_not_change_the_status(redirect: str, environment: dict[str, str], tmp_path: Path) -> None:
    assert start("--version", cwd=tmp_path, redirect=redirect, **environment).returncode == 0
    assert start("list", "defence", cwd=tmp_path, redirect=redirect, **environment).returncode == 2


def test_no_file_gets_the_number_of_a_closed_stream(tmp_path: Path) -> None:
    program = (
        "import os; from benchmark.cli.start import open_standard_streams; open_standard_streams(); "
        "f = open('rows', 'w'); assert f.fileno() > 2; os.system('echo noise; echo noise >&2'); print('noise')"
    )
    done = subprocess.run(
        ["sh", "-c", '"$@" >&- 2>&-', "sh", sys.executable, "-P", "-c", program], cwd=tmp_path, check=False
    )
    assert done.returncode == 0
    assert (tmp_path / "rows").read_bytes() == b""
