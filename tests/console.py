"""The console command in a process of its own, without the seconds that its imports take.

Each call runs in a process that is forked from a server in which the command's modules are imported already, so the
process has registries, signals and a working folder of its own, as a shell's would. Tests that send signals to the
command, or look at what it imports, start it as a shell does.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import traceback
from collections.abc import Mapping
from multiprocessing import forkserver
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest


def console(
    *arguments: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None, timeout: float = 600
) -> subprocess.CompletedProcess[str]:
    """Run ``fedsafety`` with ``arguments``; return its status and what it printed.

    Args:
        arguments: What follows the command's name.
        cwd: Folder to run in; by default this process's.
        env: Environment; by default this process's.
        timeout: Seconds after which the test fails.
    """
    # A fresh interpreter reads PYTHONPATH; the server has imported the packages that it might replace.
    if (os.environ if env is None else env).get("PYTHONPATH") or not sys.platform.startswith("linux"):
        command = [sys.executable, "-P", "-m", "benchmark.cli.main", *map(str, arguments)]
        return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=timeout, check=False)
    start_server()
    context = multiprocessing.get_context("forkserver")
    words = [str(argument) for argument in arguments]
    with TemporaryDirectory() as folder:
        output, errors = Path(folder, "output"), Path(folder, "errors")
        target = (words, str(cwd or Path.cwd()), dict(os.environ if env is None else env), str(output), str(errors))
        process = context.Process(target=_run, args=target)
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            pytest.fail(f"fedsafety {' '.join(words)} took more than {timeout:g} s")
        texts = (path.read_text(encoding="utf-8") if path.exists() else "" for path in (output, errors))
        return subprocess.CompletedProcess(words, process.exitcode, *texts)


def start_server() -> None:
    """Start the server, unless it runs. Tests that look for traces call this first, because the server has a socket."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(
        ["benchmark.execution.job", "tests.console_modules"]
    )
    forkserver.ensure_running()


def _run(words: list[str], cwd: str, environment: dict[str, str], output: str, errors: str) -> None:
    """Run the command in this fresh process and end with its status."""
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    for descriptor, path in ((1, output), (2, errors)):
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(opened, descriptor)
        os.close(opened)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    sys.argv = ["fedsafety", *words]
    status = 1
    try:
        from benchmark.cli.main import main
        from benchmark.execution import worker

        # This process has one thread yet, so its training processes may be forked without a server of their own.
        worker._context = lambda: multiprocessing.get_context("fork")  # type: ignore[assignment,return-value]
        main()
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    sys.exit(status)
