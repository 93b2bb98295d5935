"""Starts Python modules in processes that see nothing but what they were given."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from benchmark.errors import SandboxUnavailableError, UsageError, unknown_name
from benchmark.sandbox.backend import NOBODY, Isolation, kernel_version
from benchmark.sandbox.bubblewrap import find_bubblewrap
from benchmark.sandbox.layout import check_visible, environment, layout, program
from benchmark.sandbox.limits import GIB, Limits
from benchmark.sandbox.namespaces import find_namespaces
from benchmark.sandbox.process import IsolatedProcess, first_process, watch_over
from benchmark.sandbox.watch import the_watch

__all__ = ["BACKENDS", "IsolatedProcess", "Isolation", "find_isolation", "start"]

_FINDERS: dict[str, Callable[[], Isolation]] = {"bubblewrap": find_bubblewrap, "namespaces": find_namespaces}
BACKENDS = tuple(_FINDERS)
"""Names of the ways of isolating, the preferred one first."""
_PROBE = "/fedsafety/sandbox_probe.py"
_DESCRIPTORS = 256
_SPARE = 16


def find_isolation(name: str = "auto") -> Isolation:
    """Return a way of isolating processes that was tried on this machine and holds; the trial is made once.

    Args:
        name: ``bubblewrap``, ``namespaces``, or ``auto`` for the first of them that works. For root, ``auto`` prefers a
            way in which the program inside does not have root's rights.

    Raises:
        UsageError: The way is unknown.
        SandboxUnavailableError: No way works here; the text names each trial, its error, and a remedy.
    """
    if name != "auto" and name not in BACKENDS:
        raise unknown_name("isolation", name, ["auto", *BACKENDS])
    failures, working = [], []
    for each in BACKENDS if name == "auto" else [name]:
        found = _tried(each)
        if isinstance(found, Isolation):
            working.append(found)
            if found.user is not None or os.geteuid() != 0:
                return found
        else:
            failures.append(f"{each}: {found}")
    if working:  # with the rights of root inside, which the views and the filter then bound
        return working[0]
    lacking = "this platform offers no isolation" if name == "auto" else f"this platform offers no isolation by {name}"
    tried = "; ".join(failures)
    raise SandboxUnavailableError(f"{lacking}, so foreign code cannot be run in it. Tried {tried}. {_advice()}")


def start(
    isolation: Isolation,
    module: str,
    args: Sequence[str] = (),
    *,
    visible: Mapping[str, Path],
    limits: Limits,
    pass_fds: Sequence[int] = (),
) -> IsolatedProcess:
    """Run ``python -P -m module args`` in a sandbox.

    The interpreter, its installed packages and the system's libraries are visible at their own paths, without this
    distribution and without every other one that offers it methods. There is no network, no other process, nothing to
    write to but the scratch folder /tmp, and no environment but a fixed one with ``PYTHONPATH=/fedsafety``.

    Args:
        isolation: From :func:`find_isolation`.
        module: A module that is visible inside.
        args: Its arguments.
        visible: Path inside the sandbox → host file, read-only.
        limits: Kept from outside, except ``call_seconds`` and ``message_bytes``, which are the caller's to keep.
        pass_fds: Open descriptors that the process inherits under the same numbers.

    Raises:
        UsageError: A visible file does not exist.
        SandboxUnavailableError: The sandbox cannot be made.
    """
    for problem in check_visible(visible):
        raise UsageError(f"the sandbox cannot be started: {problem}")
    status, status_end = os.pipe2(os.O_CLOEXEC)
    output, output_end = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(output, False)
    opened = [status_end, output_end]
    try:
        launch = isolation.launch(
            layout(visible), program(module, args, _bounds(limits)), environment(), limits.file_bytes, status_end
        )
        opened += launch.descriptors
        outer = the_watch().start(launch.command, (status_end, *launch.descriptors, *pass_fds), output_end, launch.user)
    except OSError as error:
        os.close(status)
        os.close(output)
        raise SandboxUnavailableError(f"{isolation.name} cannot start a sandbox: {error}") from error
    finally:
        for descriptor in opened:
            os.close(descriptor)
    first = first_process(status)
    if first is None:
        outer.kill()
        outer.wait()
        with suppress(BlockingIOError):
            said = os.read(output, limits.output_bytes).decode(errors="replace").strip()
        os.close(status)
        os.close(output)
        raise SandboxUnavailableError(f"{isolation.name} cannot start a sandbox: {said or outer.returncode}")
    with suppress(OSError):  # when memory runs out, the kernel should choose the sandbox
        Path(f"/proc/{first}/oom_score_adj").write_text("1000")
    process = IsolatedProcess(outer, first, status, output, limits)
    watch_over(process)
    return process


def _bounds(limits: Limits) -> dict[str, int]:
    """Return the kernel's own limits on each process: a second fence around what the watch measures every 50 ms."""
    bounds = {
        "RLIMIT_CORE": 0,
        "RLIMIT_CPU": math.ceil(limits.cpu_seconds) + 1,
        "RLIMIT_FSIZE": limits.file_bytes,
        "RLIMIT_NOFILE": _DESCRIPTORS,
        "RLIMIT_MSGQUEUE": 0,
        "RLIMIT_DATA": limits.memory_bytes + 2 * GIB,
        "RLIMIT_AS": 2 * limits.memory_bytes + 16 * GIB,
    }
    if os.geteuid() != 0 and kernel_version() >= (5, 14):
        # Older kernels count all processes of the user, and the host's root is exempt.
        bounds["RLIMIT_NPROC"] = limits.processes + limits.threads + _SPARE
    return bounds


@lru_cache(maxsize=len(BACKENDS))
def _tried(name: str) -> Isolation | str:
    """Return a way of isolating that holds here, or why it does not.

    Root first tries to give the program inside the rights of user 65534. Root's own rights are the second choice, for
    example where that user may not read the interpreter.
    """
    try:
        found = _FINDERS[name]()
    except SandboxUnavailableError as error:
        return str(error)
    problem = _problem(replace(found, user=NOBODY)) if os.geteuid() == 0 else "not root"
    if not problem:
        return replace(found, user=NOBODY)
    return _problem(found) or found


def _problem(isolation: Isolation) -> str:
    """Return what a trial with a real process shows to be wrong with a way of isolating; empty if it holds."""
    try:
        probe = Path(__file__).with_name("probe.py")
        secret = str(Path(__file__).resolve().parents[2] / "benchmark" / "judges")
        home = str(Path.home() / ".cache")
        with start(isolation, "sandbox_probe", [secret, home], visible={_PROBE: probe}, limits=Limits()) as process:
            process.wait(60)
            said, end = process.output().strip(), process.died_of()
    except (SandboxUnavailableError, OSError) as error:
        return str(error)
    if end != "exited with status 0" or said:
        return f"a trial {end or 'did not end within a minute'}{f': {said}' if said else ''}"
    return ""


def _advice() -> str:
    if platform.system() != "Linux":
        return f"Isolation needs Linux, and this is {platform.system()}; use a Linux machine, virtual or not"
    for path, wanted in (
        ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "0"),
        ("/proc/sys/kernel/unprivileged_userns_clone", "1"),
    ):
        file = Path(path)
        if file.exists() and file.read_text().strip() != wanted:
            setting = path.removeprefix("/proc/sys/").replace("/", ".")
            return f"Users may not make namespaces here; allow them: sysctl -w {setting}={wanted}"
    return (
        "Install bubblewrap and allow users to make namespaces; inside a container, start that one with "
        "`--security-opt seccomp=unconfined --security-opt systempaths=unconfined`"
    )
